"""Fine-tune a pretrained text encoder on a CSV file of your own.

    python examples/finetune_csv.py my-texts.csv --text text --label label --out my-model

The rows are split in three: most to train on, a fifth to select the epoch on, and a fifth that is
looked at once, at the end, beside TF-IDF and logistic regression on the same rows. ``my-model`` is
an ordinary folder of transformers::

    from transformers import pipeline
    pipeline("text-classification", "my-model")("A text like yours.")

The same command under ``torchrun`` trains in several processes, on several GPUs or machines. Each
takes its share of every batch, so the number of processes changes nothing but rounding. One thing
is left to chance: every process draws its own dropout masks.
"""

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from scipy.stats import bootstrap
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers.utils.logging import disable_progress_bar

from tlbook import checks
from tlbook.data import Dataset, Split, labeled, split
from tlbook.errors import TrainingError
from tlbook.evidence.effects import Effect
from tlbook.evidence.wording import in_words
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.checkpoint import read as read_checkpoint
from tlbook.learning.freezing import ALL, freeze, head_only, last_layers
from tlbook.learning.loop import fit, predict, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.prefix import frozen_prefix
from tlbook.methods.finetuning import CHOSEN, epochs_for
from tlbook.sources.assets import AssetError
from tlbook.sources.cache import digest
from tlbook.sources.pretrained import classifier

Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: dict[str, Metric] = {
    "accuracy": accuracy_score,
    "balanced accuracy": balanced_accuracy_score,
    "f1 macro": partial(f1_score, average="macro"),
}
#: What is trained: a freezing table for the model, and the learning rate that the book found good.
TRAINED = {
    "all": (lambda model: ALL, CHOSEN["all layers"]),
    "last2": (lambda model: last_layers(model, 2), CHOSEN["last two layers"]),
    "head": (lambda model: head_only("classifier|pooler"), CHOSEN["head only"]),
}
PREFIX = ("bert", "roberta", "xlm-roberta")  # models that frozen_prefix can cut
ROWS = 5  # of each class, at least: three to train on, one to select on, one to test on
RESAMPLES = 1000  # of the test rows, for the interval


class Refused(Exception):
    """The input cannot be used; the message says what to do."""


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fine-tune a pretrained text encoder on a CSV file of your own."
    )
    add = parser.add_argument
    add("csv", type=Path, help="a table in UTF-8 with a header, one text a row")
    add("--text", default="text", help="column of the texts")
    add("--label", default="label", help="column of the class names")
    add("--group", help="column that says which rows belong together (one author, one document)")
    add("--out", type=Path, required=True, help="folder for the model; it must not hold anything")
    add("--model", default="minilm-l6", help="packaged name, Hugging Face id, or folder")
    add("--train", choices=TRAINED, default="all", help="all layers, the last two, the head alone")
    add("--metric", choices=METRICS, default="balanced accuracy", help="to select and to test by")
    add("--epochs", type=int, help="at most; by default the more, the fewer texts there are")
    add("--batch-size", type=int, default=16, help="texts per step, all processes together")
    add("--learning-rate", type=float, help="by default 2e-4, or 5e-3 (head)")
    add("--max-length", type=int, default=256, help="tokens that are read of a text")
    add("--seed", type=int, default=0, help="of the head and the order; the split has its own")
    add("--checkpoint", type=Path, help="file to go on from after an interruption")
    add(
        "--mixed-precision",
        choices=("no", "bf16", "fp16"),
        help="by default as `accelerate config` says, else no",
    )
    return parser.parse_args(arguments)


def check_numbers(args: argparse.Namespace) -> None:
    """Raises ValueError or Refused for an option out of range."""
    if args.epochs is not None:
        checks.integer("--epochs", args.epochs, least=1)
    checks.integer("--batch-size", args.batch_size, least=1)
    checks.integer("--max-length", args.max_length, least=3)  # a token between the special ones
    checks.integer("--seed", args.seed)
    if args.checkpoint and args.out.resolve() in args.checkpoint.resolve().parents:
        raise Refused("--checkpoint is inside of --out, where the model goes: name another place")
    if args.learning_rate is not None:
        checks.number("--learning-rate", args.learning_rate, above=0)


def read(args: argparse.Namespace) -> Dataset:
    """The table as labeled texts without duplicates. Raises Refused."""
    # Everything is a string: a text "null" or a label "NA" is no missing value. And no column is an
    # index, which rows longer than the header would make of the first.
    options = {"dtype": str, "keep_default_na": False, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(args.csv, encoding="utf-8-sig", **options)
    except FileNotFoundError:
        raise Refused(f"there is no file {args.csv}: check the path") from None
    except UnicodeDecodeError:
        raise Refused(f"{args.csv} is not in UTF-8: save it as UTF-8 and try again") from None
    except pd.errors.ParserWarning:
        raise Refused(
            f"{args.csv} has rows with more fields than its header: put texts that hold a comma in "
            "double quotes"
        ) from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise Refused(f"{args.csv} cannot be read as CSV ({reason}): repair it") from None
    table = table.fillna("")
    for option in ("text", "label", "group"):
        column = getattr(args, option)
        if column is not None and column not in table:
            found = ", ".join(map(repr, table.columns))
            raise Refused(f"no column {column!r} in {args.csv}: give --{option} one of {found}")
        empty = [] if column is None else np.flatnonzero(table[column].str.strip() == "")
        if len(empty):
            raise Refused(
                f"{len(empty)} rows have nothing in column {column!r}, the first is row "
                f"{empty[0] + 1} below the header: fill them in or delete them"
            )
    groups = None if args.group is None else table[args.group].to_numpy(object)
    labels = table[args.label].str.strip()
    if labels.nunique() < 2:
        raise Refused(f"column {args.label!r} has fewer than two classes: there is nothing to tell")
    data = labeled(table[args.text], labels, groups, name=args.csv.name, classes=sorted({*labels}))
    if len(np.unique(data.y)) < 2:
        raise Refused("without copies, fewer than two classes are left: there is nothing to tell")
    return data


def parts(data: Dataset) -> Split:
    """Rows to train on, to select on and to test on, each with every class. Raises Refused."""
    counts = np.bincount(data.y, minlength=len(data.classes))
    if counts.min() < ROWS:
        raise Refused(
            f"class {data.classes[counts.argmin()]!r} has {counts.min()} different texts, and "
            f"{ROWS} are the least: add texts, or delete or merge the class"
        )
    rows = split(data, test=0.2, validation=0.2)
    for part, chosen in rows._asdict().items():
        if missing := set(range(len(data.classes))) - set(data.y[chosen]):
            names = ", ".join(repr(data.classes[label]) for label in sorted(missing))
            raise Refused(
                f"the {part} rows have none of class {names}, since groups stay whole: add groups "
                "with this class, or choose a finer --group"
            )
    return rows


def same_layers(checkpoint: Path | None, tail: nn.Module) -> None:
    """Raises Refused if a checkpoint is of other layers, or has them under other numbers."""
    if checkpoint is None or not checkpoint.exists():
        return
    _, tensors = read_checkpoint(checkpoint)
    stored = {name for name in tensors if name.startswith("model:")}
    frozen = {name for name, p in tail.named_parameters() if not p.requires_grad}
    if stored != {f"model:{name}" for name in tail.state_dict().keys() - frozen}:
        raise Refused(
            f"{checkpoint} belongs to a run with another --train or, with frozen layers, to one of "
            "several processes where this is one, or the reverse: go on as it began, or remove it"
        )


def baseline(data: Dataset, rows: Split, metric: Metric, weighted: bool) -> np.ndarray:
    """What TF-IDF and logistic regression predict for the test rows, selected in the same way."""
    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2))
    words.fit(data.x[rows.train])
    train, validation, test = (words.transform(data.x[chosen]) for chosen in rows)
    weight = "balanced" if weighted else None
    models = [
        LogisticRegression(C=c, class_weight=weight, max_iter=1000).fit(train, data.y[rows.train])
        for c in (0.1, 1, 10, 100)
    ]
    scores = [metric(data.y[rows.validation], model.predict(validation)) for model in models]
    return models[int(np.argmax(scores))].predict(test)


def interval(
    metric: Metric, y: np.ndarray, ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray
) -> tuple[float, float] | None:
    """95 percent of the differences of two predictions when the test groups are resampled.

    None for a single group, which says nothing of others.
    """
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(groups[order][1:] != groups[order][:-1]) + 1)
    if len(members) < 2:
        return None

    def gain(drawn: np.ndarray) -> float:
        rows = np.concatenate([members[index] for index in drawn])
        return metric(y[rows], ours[rows]) - metric(y[rows], theirs[rows])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare class can be missing from a draw
        limits = bootstrap(
            (np.arange(len(members)),),
            gain,
            n_resamples=RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(limits.low), float(limits.high)


def run(args: argparse.Namespace, accelerator: Accelerator) -> None:
    def say(text: str) -> None:  # the main process alone speaks and writes
        if accelerator.is_main_process:
            with suppress(BrokenPipeError):  # nobody listens any more: no reason to lose a model
                print(text, flush=True)

    metric, weighted = METRICS[args.metric], args.metric != "accuracy"
    with one_line(accelerator):
        check_numbers(args)
        data = read(args)
        rows = parts(data)
        # Few texts in few epochs are a handful of updates, which is too few
        args.epochs = args.epochs or max(3, epochs_for(len(rows.train)))
        model, tokenizer = classifier(args.model, data.classes, seed=args.seed)
        model.to(accelerator.device)
        table, rate = TRAINED[args.train]
        groups = freeze(model, table(model), args.learning_rate or rate)
        length = min(args.max_length, tokenizer.model_max_length)
        train, validation, test = (
            tokenized(tokenizer, data.x[chosen], data.y[chosen], length) for chosen in rows
        )
        known = model.get_input_embeddings().num_embeddings
        texts = [ids for part in (train, validation, test) for ids in part["input_ids"]]
        if (largest := max(map(max, texts))) >= known:
            raise Refused(
                f"{args.model}: its tokenizer gives token {largest}, but it has {known} "
                "embeddings: its files do not belong together"
            )
    with one_line(accelerator), reserved(args.out, accelerator.is_main_process) as part:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        shares = ", ".join(f"{len(chosen)} {name}" for name, chosen in rows._asdict().items())
        say(f"{len(data)} different texts in {len(data.classes)} classes: {shares}")
        for what, count in data.left_out.items():
            say(f"{count} {what} are left out")
        counts = np.bincount(data.y)
        if counts.min() < 10:
            name, count = data.classes[counts.argmin()], counts.min()
            say(f"class {name!r} has {count} texts only: what is said of it is a guess")
        say(f"{trained:,} parameters are trained, in {accelerator.num_processes} process(es)")
        if cut := sum(len(ids) == length for ids in train["input_ids"]):
            say(f"{cut} texts to train on reach {length} tokens: what lies beyond is not read")
        batched = partial(Batches, batch_size=args.batch_size, padding=tokenizer.pad_token_id or 0)
        tail, test = model, batched(test)
        if (
            accelerator.num_processes == 1  # several would each compute all of it
            and args.train != "all"
            and model.config.model_type in PREFIX
        ):
            tail, train = frozen_prefix(model, train)  # what is frozen is computed once
            _, validation = frozen_prefix(model, validation)

        weights = None
        if weighted:  # plain accuracy is best served by the classes as they are
            y = data.y[rows.train]
            balanced = compute_class_weight("balanced", classes=np.unique(y), y=y)
            weights = torch.tensor(balanced, dtype=torch.float32)
        torch.manual_seed(args.seed + accelerator.process_index)  # dropout: masks of its own
        same_layers(args.checkpoint, tail)
        history = fit(
            tail,
            classification(class_weights=weights),
            batched(train, epochs=args.epochs, seed=args.seed),
            torch.optim.AdamW(groups, eps=1e-6),  # BERT's; with 1e-8 rounding grows to steps
            validation=batched(validation),
            metric=metric,
            patience=max(2, args.epochs // 3),
            checkpoint=args.checkpoint,
            identity=identity(args, data, rows),
            schedule=warmup_linear(),
            accelerator=accelerator,
        )
        # Saved before anything else is done: whatever goes wrong from here on, the model is there.
        if accelerator.is_main_process:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    say(history.to_string(index=False, float_format="%.4g"))
    say(f'Saved. To use it: transformers.pipeline("text-classification", "{args.out}")')

    predicted = predict(model, test, accelerator).argmax(-1)  # the one look at the test rows
    if accelerator.is_main_process:
        say("Comparing with TF-IDF and logistic regression on the same rows ...")
        result = {"metric": args.metric} | judged(data, rows, predicted, metric, weighted)
        say(report(result))
        result |= {
            "rows": {name: len(chosen) for name, chosen in rows._asdict().items()},
            "processes": accelerator.num_processes,
            "options": {name: value for name, value in vars(args).items() if name != "out"},
            "history": history.to_dict("records"),
        }
        with one_line(accelerator):
            (args.out / "result.json").write_text(json.dumps(result, indent=2, default=str) + "\n")
    accelerator.wait_for_everyone()


def identity(args: argparse.Namespace, data: Dataset, rows: Split) -> str:
    """What a checkpoint must have in common with a run that goes on from it."""
    content = [data.x[rows.train], data.y[rows.train], data.x[rows.validation]]
    options = [args.model, args.train, args.metric, str(args.max_length), *data.classes]
    return digest(*options, *content, data.y[rows.validation])


def judged(
    data: Dataset, rows: Split, predicted: np.ndarray, metric: Metric, weighted: bool
) -> dict:
    """The scores on the test rows, their difference and its limits; None for what is unknown."""
    y, groups = data.y[rows.test], data.groups[rows.test]
    ours = metric(y, predicted)
    try:
        control = baseline(data, rows, metric, weighted)
    except ValueError:  # texts without words, such as emoji alone, leave it nothing to count
        return {"test": ours, "baseline": None, "difference": None}
    theirs = metric(y, control)
    limits = interval(metric, y, predicted, control, groups) or (None, None)
    return {"test": ours, "baseline": theirs, "difference": [ours - theirs, *limits]}


def report(result: dict) -> str:
    """The result, and what it does not say."""
    said = f"Test, {result['metric']}: {result['test']:.3f}; TF-IDF and logistic regression: "
    if result["baseline"] is None:
        return said + "none, since the texts hold no words to count"
    gain, low, high = result["difference"]
    said += f"{result['baseline']:.3f}; difference {100 * gain:+.1f} points "
    if low is None:
        return said + "(no interval: all test rows are of one group)"
    effect = Effect(gain, min(low, gain), max(high, gain), seeds=1)
    return (
        f"{said}[{100 * low:+.1f}, {100 * high:+.1f}]\n"
        f"Against TF-IDF, the model {in_words(effect)}. "
        "This is one run: the interval counts the chance of the test rows alone. "
        "Repeat it with --seed 1, 2, ... before you rely on it."
    )


@contextmanager
def reserved(out: Path, main: bool) -> Iterator[Path]:
    """A folder beside ``out`` to save into, which becomes ``out`` when all is well.

    It is made before the work begins, so that a place that cannot be written to, or that another
    run writes to, is found at once. Raises Refused.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out} is there and not empty: name another --out, or remove it")
    part = out.with_name(f".{out.name}.part")
    if part.exists() and any(part.iterdir()) and not (part / "process").exists():
        raise Refused(f"{part} holds the model of an earlier run: move it, or name another --out")
    if not main:
        yield part
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if part.exists() and not _alive(part / "process"):
            shutil.rmtree(part)  # of a run that was killed
        part.mkdir()  # by one process only
        (part / "process").write_text(str(os.getpid()))
    except FileExistsError:
        raise Refused(f"another run is writing to {out}: name another --out, or wait") from None
    except OSError as error:
        raise Refused(f"{out} cannot be written ({error.strerror}): name another --out") from None
    saved = False
    try:
        yield part
        (part / "process").unlink()
        saved = True
        part.replace(out)
    except (OSError, SafetensorError) as error:  # such as a full disk, or somebody's file in out
        reason = " ".join(str(error).split())
        raise Refused(
            f"the model is in {part}, since {out} could not be made ({reason}): move it"
            if saved
            else f"the model could not be saved to {out} ({reason}): make room and run again, with "
            "the same --checkpoint if you gave one: nothing is trained twice"
        ) from None
    finally:
        if not saved:
            shutil.rmtree(part, ignore_errors=True)


def _alive(note: Path) -> bool:
    """Whether the process that a file names is running on this machine."""
    try:
        os.kill(int(note.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def one_line(accelerator: Accelerator) -> Iterator[None]:
    """What the reader can put right is said in one line; exit code 2."""
    try:
        yield
    except (Refused, AssetError, OSError, TrainingError, ValueError) as error:
        if accelerator.is_local_main_process:
            print(f"finetune_csv.py: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    disable_progress_bar()  # of transformers; fit has its own
    # By default on what is there: a GPU, or else the CPU, where several processes need to be told.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(), mixed_precision=args.mixed_precision
    )
    try:
        run(args, accelerator)
    except KeyboardInterrupt:
        kept = (
            "the model is saved"
            if args.out.exists() and any(args.out.iterdir())
            else (
                f"the same command goes on from {args.checkpoint}"
                if args.checkpoint and args.checkpoint.exists()
                else "nothing is kept: with --checkpoint FILE it would go on from there"
            )
        )
        print(f"finetune_csv.py: interrupted; {kept}", file=sys.stderr)
        raise SystemExit(130) from None
    accelerator.end_training()


if __name__ == "__main__":
    main()
