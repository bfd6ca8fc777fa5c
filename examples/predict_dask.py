"""Label files on the machines of a Dask cluster, or by several workers on this one.

``python examples/predict_dask.py my-model texts/*.parquet --out labeled --workers 4`` writes what
``python -m tlbook predict`` writes, file by file. Dask (``pip install distributed``) is no part of
the environment. It gives a file to whichever worker is free, and gives it again where one was lost;
what is complete is not done again. With ``--scheduler tcp://first-machine:8786`` the work goes to
that cluster, where ``tlbook``, the model and the files have to be under the same paths.
"""

import argparse
from functools import cache
from pathlib import Path

from distributed import Client, LocalCluster, progress

from tlbook.advisor.files import predict_file
from tlbook.advisor.saving import load_saved

#: Each worker loads the saved strategy once.
loaded = cache(load_saved)


def label(folder: str, source: str, out: str, column: str | None) -> int:
    """Label one file; the number of its rows."""
    return predict_file(loaded(folder), Path(source), Path(out), column=column, keep_note=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what advise --save wrote")
    parser.add_argument("source", type=Path, nargs="+", help="files of different names")
    parser.add_argument("--out", type=Path, required=True, help="folder for a CSV of each file")
    parser.add_argument("--text", help="column of the inputs")
    parser.add_argument("--workers", type=int, default=2, help="on this machine (default: 2)")
    parser.add_argument("--scheduler", help="address of a cluster, in place of workers here")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sources = [source.resolve() for source in options.source]
    places = [options.out.resolve() / (source.stem + ".csv") for source in sources]
    if len(set(places)) < len(places):
        parser.error("two files have the same name: rename one")
    with Client(
        options.scheduler or LocalCluster(n_workers=options.workers, threads_per_worker=1)
    ) as client:
        work = [
            client.submit(label, str(options.folder.resolve()), str(s), str(p), options.text)
            for s, p in zip(sources, places, strict=True)
        ]
        progress(work)
        rows = sum(client.gather(work))
    print(f"\n{rows} rows in {options.out}")


if __name__ == "__main__":
    main()
