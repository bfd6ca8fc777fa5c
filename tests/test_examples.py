"""examples/finetune_csv.py: what it promises, on a tiny BERT and sentences made up."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from transformers import (
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from examples import finetune_csv
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.freezing import freeze, head_only
from tlbook.learning.loop import predict
from tlbook.learning.prefix import frozen_prefix
from tlbook.sources.pretrained import load

SCRIPT = Path(finetune_csv.__file__)
WORDS = {
    "yes": ("good", "great", "fine", "lovely", "solid", "useful", "bright", "quick"),
    "no": ("bad", "poor", "broken", "weak", "loud", "slow", "dull", "useless"),
}
THINGS = ("phone", "camera", "lamp", "table", "radio", "book", "kettle", "bag")


def sentences(n: int = 150, seed: int = 0) -> pd.DataFrame:
    """Texts of different lengths, two of a group, one label in ten wrong; "no" is the rarer."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(n):
        label = "no" if row % 3 == 0 else "yes"
        one, other = rng.choice(WORDS[label], 2)
        filler = "really " * rng.integers(0, 12)
        text = f"The {rng.choice(THINGS)} is {one} and {other}, {filler}says number {row}."
        wrong = {"no": "yes", "yes": "no"}[label]
        rows.append((text, wrong if rng.random() < 0.1 else label, f"author {row // 2}"))
    return pd.DataFrame(rows, columns=["text", "label", "author"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models "still" (no dropout) and "wild" (dropout), and "texts.csv"."""
    path = tmp_path_factory.mktemp("examples")
    sentences().to_csv(path / "texts.csv", index=False)
    tokenizer = load("minilm-l6").tokenizer
    for name, dropout in (("still", 0.0), ("wild", 0.2)):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=30522,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.1,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        BertModel(config).save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
    return path


@pytest.fixture(autouse=True)
def run_of_its_own(monkeypatch):
    """Accelerate keeps one state for a process. Few resamples: most tests do not look at them."""
    monkeypatch.setattr(finetune_csv, "RESAMPLES", 20)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def command(folder: Path, out: Path, model: str = "still", **options) -> list[str]:
    settings = {"epochs": 3, "batch-size": 7, "learning-rate": 2e-3, "max-length": 64} | options
    named = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [str(folder / "texts.csv"), "--model", str(folder / model), "--out", str(out), *named]


def run(arguments: list[str]) -> dict:
    """Run the script here; what it wrote: the result, and the weights."""
    finetune_csv.main(arguments)
    return result(Path(arguments[arguments.index("--out") + 1]))


def result(out: Path) -> dict:
    weights = load_file(out / "model.safetensors")
    return json.loads((out / "result.json").read_text()) | {"weights": weights}


# --- what comes out -----------------------------------------------------------------------------

PIPELINE = """
import json, sys
from transformers import pipeline
folder, texts = sys.argv[1], json.load(sys.stdin)
answers = pipeline("text-classification", folder)(texts)
assert not [name for name in sys.modules if name.split(".")[0] in ("tlbook", "examples")]
print(json.dumps([answer["label"] for answer in answers]))
"""


def test_by_default_few_texts_get_many_epochs_at_the_rate_that_the_book_chose(
    folder, tmp_path, monkeypatch
):
    seen = {}

    def watching(tail, loss_fn, batches, optimizer, **options):
        seen.update(epochs=batches.epochs, rate=optimizer.param_groups[0]["lr"], **options)
        return original(tail, loss_fn, replace(batches, epochs=1), optimizer, **options)

    original = finetune_csv.fit
    monkeypatch.setattr(finetune_csv, "fit", watching)
    arguments = command(folder, tmp_path / "out")
    for name in ("--epochs", "--learning-rate"):
        at = arguments.index(name)
        del arguments[at : at + 2]
    done = run(arguments)
    epochs = round(64 / done["rows"]["train"] ** 0.5)
    assert (seen["epochs"], seen["rate"]) == (epochs, 2e-4) and epochs > 5
    assert seen["patience"] == max(2, epochs // 3)


def test_the_folder_is_a_pipeline_that_has_the_test_score(folder, tmp_path):
    """In a fresh process with nothing but transformers: best weights, tokenizer, class names."""
    options = {"group": "author", "epochs": 8, "learning-rate": 4e-3}
    arguments = command(folder, tmp_path / "out", **options)
    done = run(arguments)
    data = finetune_csv.read(finetune_csv.options(arguments))
    rows = finetune_csv.parts(data)
    fresh = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(tmp_path / "out")],
        input=json.dumps(data.x[rows.test].tolist()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    labels = json.loads(fresh.stdout.splitlines()[-1])
    truth = np.array(data.classes)[data.y[rows.test]]
    assert done["test"] == pytest.approx(balanced_accuracy_score(truth, labels))
    assert set(labels) == {"yes", "no"} and done["test"] > 0.6
    gain, low, high = done["difference"]
    assert gain == pytest.approx(done["test"] - done["baseline"]) and low <= gain <= high
    assert done["baseline"] > 0.7  # nine labels in ten are right, and a word tells


@pytest.mark.parametrize("train", ["last2", "head"])
def test_what_is_frozen_is_as_it_was(folder, tmp_path, train):
    """Also where the frozen layers are computed once."""
    done = run(command(folder, tmp_path / "out", train=train))
    before = load_file(folder / "still" / "model.safetensors")
    moved = {
        name
        for name, value in before.items()
        if not torch.equal(value, done["weights"][f"bert.{name}"])
    }
    layers = {"last2": ("pooler", "encoder.layer.1", "encoder.layer.2"), "head": ("pooler",)}
    assert moved == {name for name in before if name.startswith(layers[train])}


def test_rows_are_told_apart(folder, tmp_path, monkeypatch):
    """Copies are out, groups stay whole, and fit sees no text that is tested on."""
    table = sentences()
    table.loc[len(table)] = [table.text[0].upper(), table.label[0], "author 3"]
    table.loc[len(table)] = [table.text[1], "neither", "author 4"]
    for row in range(12):
        table.loc[len(table)] = [f"null {row}" if row else "null", "neither", f"nobody {row}"]
    table.to_csv(tmp_path / "texts.csv", index=False)
    arguments = command(tmp_path, tmp_path / "out", group="author", epochs=1)
    arguments[2] = str(folder / "still")
    data = finetune_csv.read(finetune_csv.options(arguments))
    assert len(data) == 150 - 1 + 12  # the text with two labels goes altogether
    assert "null" in data.x and data.classes == ("neither", "no", "yes")
    rows = finetune_csv.parts(data)
    author = dict(zip(table.text, table.author, strict=True))
    owners = [{author[text] for text in data.x[chosen]} for chosen in rows]
    assert not owners[0] & owners[1] and not (owners[0] | owners[1]) & owners[2]

    seen: list = []

    def watching(model, loss_fn, batches, optimizer, *, validation, **others):
        seen.extend([batches.columns["input_ids"], validation.columns["input_ids"]])
        return pd.DataFrame({"step": [0]})

    monkeypatch.setattr(finetune_csv, "fit", watching)
    run(arguments)
    tokenizer = load("minilm-l6").tokenizer
    for part, columns in zip(rows[:2], seen, strict=True):
        assert columns == tokenized(tokenizer, data.x[part], max_length=64)["input_ids"]


@pytest.mark.parametrize(("metric", "weighted"), [("accuracy", False), ("f1 macro", True)])
def test_classes_weigh_alike_unless_accuracy_is_asked_for(
    folder, tmp_path, monkeypatch, metric, weighted
):
    given = []

    def watching(class_weights):
        given.append(class_weights)
        return lambda model, batch: (sum(p.sum() for p in model.parameters()) * 0, {})

    monkeypatch.setattr(finetune_csv, "classification", watching)
    arguments = command(folder, tmp_path / "out", metric=metric, epochs=1)
    run(arguments)
    (weights,) = given
    if not weighted:
        assert weights is None
        return
    data = finetune_csv.read(finetune_csv.options(arguments))
    counts = np.bincount(data.y[finetune_csv.parts(data).train])
    assert weights.numpy() * counts == pytest.approx([counts.sum() / 2] * 2)


def test_interval_against_the_normal_approximation(monkeypatch):
    monkeypatch.setattr(finetune_csv, "RESAMPLES", 1000)
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    ours, theirs = (np.where(rng.random(400) < share, y, 1 - y) for share in (0.9, 0.7))
    gains = (ours == y).astype(float) - (theirs == y)
    half = 1.96 * gains.std() / np.sqrt(400)
    low, high = finetune_csv.interval(accuracy_score, y, ours, theirs, np.arange(400))
    assert (low, high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.01)
    # four copies of each row in one group tell no more than the row
    copies = [np.repeat(values, 4) for values in (y, ours, theirs, np.arange(400))]
    assert finetune_csv.interval(accuracy_score, *copies) == pytest.approx((low, high))


def test_roberta_can_be_cut_too():
    """The script passes it to frozen_prefix, whose own tests do not have it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=50, intermediate_size=32, **sizes)
    model = RobertaForSequenceClassification(config).eval()
    assert model.config.model_type in finetune_csv.PREFIX
    freeze(model, head_only("classifier|pooler"), lr=1.0)
    ids = [[0, *range(5, 5 + length), 2] for length in (3, 9, 5)]
    columns = {"input_ids": ids, "labels": np.array([0, 1, 0])}
    tail, short = frozen_prefix(model, columns)
    padding = model.config.pad_token_id
    whole = predict(model, Batches(columns, 3, seed=None, padding=padding))
    assert predict(tail, Batches(short, 3, seed=None)) == pytest.approx(whole, abs=1e-5)


# --- interruptions, processes, precision --------------------------------------------------------


def test_a_resumed_run_is_the_straight_run(folder, tmp_path, monkeypatch, capsys):
    """With dropout, bit for bit; also where the frozen layers are computed once."""
    options = {"model": "wild", "train": "last2"}
    straight = run(command(folder, tmp_path / "straight", **options))
    resumable = {"checkpoint": tmp_path / "run.safetensors"}
    original, calls, stop_at = finetune_csv.classification, 0, 20  # of 39 steps in three epochs

    def counted(**given):
        loss_fn = original(**given)

        def counting(model, batch):
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return loss_fn(model, batch)

        return counting

    monkeypatch.setattr(finetune_csv, "classification", counted)
    with pytest.raises(SystemExit) as stop:
        run(command(folder, tmp_path / "resumed", **options, **resumable))
    assert stop.value.code == 130
    assert "interrupted; the same command goes on from" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"straight", "run.safetensors"}
    calls, stop_at = 0, None
    resumed = run(command(folder, tmp_path / "resumed", **options, **resumable))
    assert calls == 26  # the first epoch is not run again
    for name, value in straight["weights"].items():
        assert torch.equal(value, resumed["weights"][name]), name
    assert straight["test"] == resumed["test"]
    losses, again = ([row["loss"] for row in r["history"]] for r in (straight, resumed))
    assert losses == again and len(losses) == 3


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder, tmp_path):
    """Shares are uneven: 7 rows a batch. One process speaks, and writes."""
    one = run(command(folder, tmp_path / "one"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [sys.executable, *torchrun, str(SCRIPT), *command(folder, tmp_path / "two")]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("different texts") == ran.stdout.count("Saved.") == 1
    two = result(tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    for key in ("loss", "score"):
        values, others = ([row[key] for row in r["history"]] for r in (one, two))
        assert values == pytest.approx(others, abs=1e-5)
    for name, value in one["weights"].items():
        assert two["weights"][name] == pytest.approx(value, abs=1e-5), name
    assert (one["test"], one["baseline"]) == (two["test"], two["baseline"])
    before = load_file(folder / "still" / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    assert (before[name] - one["weights"][f"bert.{name}"]).abs().max() > 0.01  # it has learned


def test_other_processes_neither_speak_nor_write(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PartialState, "is_main_process", property(lambda self: False))
    monkeypatch.setattr(PartialState, "use_distributed", property(lambda self: True))
    file = tmp_path / "run.safetensors"
    finetune_csv.main(command(folder, tmp_path / "out", epochs=1, checkpoint=file))
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_mixed_precision_computes_in_bfloat16_and_learns(folder, tmp_path):
    kinds = set()

    def watch(module, inputs, output):
        if isinstance(module, torch.nn.Linear) and torch.is_grad_enabled():
            kinds.add(output.dtype)

    with torch.nn.modules.module.register_module_forward_hook(watch):
        done = run(command(folder, tmp_path / "out", **{"mixed-precision": "bf16"}))
    assert kinds == {torch.bfloat16}
    assert {value.dtype for value in done["weights"].values()} == {torch.float32}
    first, *_, last = (row["loss"] for row in done["history"])
    assert last < first - 0.05


# --- what is refused ----------------------------------------------------------------------------


def damaged(change):
    """A table with a fault, as the bytes of its file."""
    table = sentences()
    changed = change(table)
    return (table if changed is None else changed).to_csv(index=False).encode()


def emptied(column):
    def change(table):
        table.loc[[4, 9], column] = ["", "  "]

    return damaged(change)


FAULTS = {
    "rare": (
        damaged(lambda t: pd.concat([t[t.label == "yes"], t[t.label == "no"][:4]])),
        {},
        "class 'no' has 4 different texts, and 5 are the least: add texts, or",
    ),
    "copies": (
        damaged(lambda t: t.assign(text="the same, twenty times")[t.label == "no"][:20]),
        {},
        "fewer than two classes",
    ),
    "commas": (
        b"text,label\n" + b"".join(b"Fine, and number %d,pos\n" % row for row in range(30)),
        {},
        "rows with more fields than its header: put texts that hold a comma in double quotes",
    ),
    "a third column": (
        b"text,label\n" + b"".join(b"Text %d,pos,train\n" % row for row in range(30)),
        {},
        "rows with more fields than its header",
    ),
    "column": (damaged(lambda t: t), {"text": "body"}, "no column 'body' in"),
    "semicolons": (
        damaged(lambda t: t).replace(b",", b";"),
        {},
        "no column 'text' in .*: give --text one of 'text;label;author'",
    ),
    "group": (damaged(lambda t: t), {"group": "by"}, "no column 'by' .* give --group one of"),
    "empty text": (emptied("text"), {}, "2 rows have nothing in column 'text', the first is row 5"),
    "empty label": (emptied("label"), {}, "2 rows have nothing in column 'label'"),
    "one class": (damaged(lambda t: t[t.label == "no"]), {}, "fewer than two classes"),
    "one author": (
        damaged(lambda t: t.assign(author=t.author.where(t.label == "yes", "one"))),
        {"group": "author"},
        "rows have none of class .*, since groups stay whole: add groups",
    ),
    "encoding": ("text,label\nschön,gut\n".encode("latin-1"), {}, "is not in UTF-8: save it"),
    "nothing": (b"", {}, "cannot be read as CSV .* repair it"),
    "ragged": (b"text,label\na,b\na,b,c,d\n", {}, "cannot be read as CSV .* repair it"),
    "image model": (damaged(lambda t: t), {"model": "mobilenet-v2"}, "is an image encoder"),
    "no model": (damaged(lambda t: t), {"model": "minilm-l7"}, "the packaged 'minilm-l6'"),
    "depth": (damaged(lambda t: t), {"model": "shallow", "train": "last2"}, "k=2, but the model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_one_line(folder, tmp_path, capsys, fault):
    content, options, message = FAULTS[fault]
    (tmp_path / "texts.csv").write_bytes(content)
    if options.get("model") == "shallow":
        config = BertConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=1)
        config.num_attention_heads = 2
        BertModel(config).save_pretrained(tmp_path / "shallow")
        load("minilm-l6").tokenizer.save_pretrained(tmp_path / "shallow")
        options = options | {"model": str(tmp_path / "shallow")}
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    model = [] if "model" in options else ["--model", str(folder / "still")]
    refused(
        capsys, message, str(tmp_path / "texts.csv"), "--out", str(tmp_path / "out"), *model, *named
    )
    assert not (tmp_path / "out").exists()


def refused(capsys, message: str, *arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        finetune_csv.main([*arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("finetune_csv.py: ")
    assert re.search(message, line), line


def test_files_that_are_not_there_or_in_the_way(folder, tmp_path, capsys):
    message = r"there is no file .*no\.csv: check the path"
    refused(capsys, message, str(tmp_path / "no.csv"), "--out", str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    message = "is there and not empty: name another --out, or remove it"
    refused(capsys, message, *command(folder, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path, capsys):
    file = tmp_path / "run.safetensors"
    run(command(folder, tmp_path / "one", epochs=1, checkpoint=file))
    capsys.readouterr()
    again = command(folder, tmp_path / "two", epochs=2, checkpoint=file)
    refused(capsys, "belongs to another run", *again)
    again = command(folder, tmp_path / "two", epochs=1, checkpoint=file, train="last2")
    refused(capsys, "go on as it began, or remove it", *again)


def test_a_checkpoint_with_other_numbers_of_layers_is_refused(
    folder, tmp_path, capsys, monkeypatch
):
    """What frozen_prefix leaves counts its layers from 0; loaded elsewhere they would be others."""
    options = {"checkpoint": tmp_path / "run.safetensors", "train": "last2", "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(finetune_csv, "PREFIX", ())  # as with several processes
        run(command(folder, tmp_path / "one", **options))
    capsys.readouterr()
    refused(capsys, "go on as it began", *command(folder, tmp_path / "two", **options))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("epochs", 0, "--epochs=0 must be a whole number, at least 1"),
        ("batch-size", 0, "--batch-size=0"),
        ("batch-size", -1, "--batch-size=-1"),
        ("learning-rate", 0, "--learning-rate=0.0 must be a finite number, above 0"),
        ("learning-rate", -1, "--learning-rate=-1.0"),
        ("learning-rate", "nan", "--learning-rate=nan"),
        ("max-length", 0, "--max-length=0 must be a whole number, at least 3"),
        ("max-length", -5, "--max-length=-5"),
        ("seed", -1, "--seed=-1"),
    ],
)
def test_a_number_out_of_range_is_refused_at_once(folder, tmp_path, capsys, option, value, message):
    refused(capsys, message, *command(folder, tmp_path / "out", **{option: value}))


def test_the_embeddings_must_know_the_tokens(folder, tmp_path, capsys):
    small = BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(small).save_pretrained(tmp_path / "small")
    load("minilm-l6").tokenizer.save_pretrained(tmp_path / "small")
    message = "gives token .*, but it has 200 embeddings"
    refused(capsys, message, *command(folder, tmp_path / "out", model=tmp_path / "small"))


@pytest.mark.parametrize("damage", ["empty", "cut", "folder", "text"])
def test_a_damaged_checkpoint_is_named(folder, tmp_path, capsys, damage):
    file = tmp_path / "run.safetensors"
    run(command(folder, tmp_path / "one", epochs=1, checkpoint=file))
    whole = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "cut": whole[:1000], "text": b"no checkpoint"}[damage])
    capsys.readouterr()
    message = "is no checkpoint, or a damaged one .*: remove it, or name another file"
    refused(capsys, message, *command(folder, tmp_path / "two", epochs=1, checkpoint=file))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(text=t.text.str.replace("says", "claims")),
        lambda t: t.sample(frac=1, random_state=0),
        lambda t: t.assign(label=t.label.map({"yes": "warm", "no": "cold"})),
        lambda t: t.assign(label=np.where(np.arange(len(t)) % 5 == 0, "third", t.label)),
        {"metric": "accuracy"},
        {"max-length": 32},
    ],
)
def test_a_checkpoint_of_other_data_or_settings_is_refused(folder, tmp_path, capsys, change):
    """With other texts, their order, other names or numbers of classes, metric, or length."""
    options = {"epochs": 1, "checkpoint": tmp_path / "run.safetensors"}
    run(command(folder, tmp_path / "one", **options))
    capsys.readouterr()
    arguments = command(folder, tmp_path / "two", **options)
    if isinstance(change, dict):
        arguments += [part for name, value in change.items() for part in (f"--{name}", str(value))]
    else:
        change(sentences()).to_csv(tmp_path / "texts.csv", index=False)
        arguments[0] = str(tmp_path / "texts.csv")
    refused(capsys, "belongs to another run", *arguments)


# --- nothing is lost ----------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_fails_after_training_does_not_cost_the_model(folder, tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("after training")

    monkeypatch.setattr(finetune_csv, "predict", fails)
    with pytest.raises(RuntimeError, match="after training"):
        run(command(folder, tmp_path / "out", epochs=1))
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names(tmp_path / "out")


def test_one_group_to_test_on_gives_no_interval(folder, tmp_path, capsys, monkeypatch):
    table = sentences()
    table["author"] = [f"author {row % 5}" for row in range(len(table))]
    table.to_csv(tmp_path / "texts.csv", index=False)
    arguments = command(folder, tmp_path / "out", group="author", epochs=1)
    done = run([str(tmp_path / "texts.csv"), *arguments[1:]])
    gain, low, high = done["difference"]
    assert low is high is None and gain == pytest.approx(done["test"] - done["baseline"])
    assert "no interval: all test rows are of one group" in capsys.readouterr().out


def test_texts_without_words_have_no_baseline(folder, tmp_path, capsys):
    faces = [chr(0x1F600 + row) * (1 + row % 3) for row in range(60)]
    table = pd.DataFrame({"text": faces, "label": ["yes", "no"] * 30})
    table.to_csv(tmp_path / "texts.csv", index=False)
    arguments = command(folder, tmp_path / "out", epochs=1)
    done = run([str(tmp_path / "texts.csv"), *arguments[1:]])
    assert done["baseline"] is None and 0 <= done["test"] <= 1
    assert "none, since the texts hold no words to count" in capsys.readouterr().out


def test_a_class_of_seven_texts_is_enough(folder, tmp_path, capsys):
    table = sentences()
    rare = table[table.label == "no"][:7].assign(label="grain")
    pd.concat([table, rare.assign(text=rare.text + " Grain.")]).to_csv(tmp_path / "texts.csv")
    arguments = command(folder, tmp_path / "out", epochs=1)
    done = run([str(tmp_path / "texts.csv"), *arguments[1:]])
    assert 0 <= done["test"] <= 1
    assert "class 'grain' has 7 texts only" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_to_is_found_before_training(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(finetune_csv, "fit", None)
    (tmp_path / "file").write_text("in the way")
    refused(capsys, "cannot be written", *command(folder, tmp_path / "file" / "below" / "out"))
    message = "is there and not empty"
    refused(capsys, message, *command(folder, tmp_path / "file"))


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    def full(self, place, **options):
        (Path(place) / "config.json").write_text("half a folder")
        raise OSError(28, "No space left on device")

    options = {"epochs": 1, "checkpoint": tmp_path / "run.safetensors"}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        refused(
            capsys,
            r"could not be saved to .*No space left on device.*make room and run again",
            *command(folder, tmp_path / "out", **options),
        )
    assert names(tmp_path) == {"run.safetensors"}
    assert 0 <= run(command(folder, tmp_path / "out", **options))["test"] <= 1


def test_a_folder_that_fills_during_training_does_not_cost_the_model(
    folder, tmp_path, capsys, monkeypatch
):
    original = finetune_csv.fit

    def filling(*arguments, **options):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("the only copy")
        return original(*arguments, **options)

    monkeypatch.setattr(finetune_csv, "fit", filling)
    refused(
        capsys, "the model is in .*out.part, since", *command(folder, tmp_path / "out", epochs=1)
    )
    assert "model.safetensors" in names(tmp_path / ".out.part")
    assert names(tmp_path / "out") == {"thesis.txt"}
    (tmp_path / "out" / "thesis.txt").rename(tmp_path / "thesis.txt")  # and then the same again
    refused(
        capsys, "holds the model of an earlier run", *command(folder, tmp_path / "out", epochs=1)
    )
    assert "model.safetensors" in names(tmp_path / ".out.part")
    message = "--checkpoint is inside of --out"
    inside = tmp_path / "new" / "run.safetensors"
    refused(capsys, message, *command(folder, tmp_path / "new", checkpoint=inside))


def test_two_runs_do_not_write_to_one_folder(folder, tmp_path, capsys):
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "process").write_text(str(os.getpid()))  # alive
    refused(capsys, "another run is writing to", *command(folder, tmp_path / "out", epochs=1))
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    (part / "process").write_bytes(ended.stdout)  # killed before it could clean up
    run(command(folder, tmp_path / "out", epochs=1))
    assert names(tmp_path) == {"out"} and "process" not in names(tmp_path / "out")


def test_a_closed_pipe_does_not_cost_the_model(folder, tmp_path):
    """As under ``| head -1``: the reader goes after the first line."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *command(folder, tmp_path / "out", epochs=1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(timeout=300) == 0 and "Traceback" not in error, error
    assert (tmp_path / "out" / "result.json").exists()


def test_a_book_in_a_cell_costs_little_and_changes_nothing():
    tokenizer = load("minilm-l6").tokenizer
    rng = np.random.default_rng(0)
    words = np.array([*WORDS["yes"], *THINGS, "antidisestablishmentarianism", "12,5", "好"])
    book = " ".join(rng.choice(words, 200_000)) + "\n" + " " * 9000 + "end"
    blank = " " * 90_000 + "a text after much white space"
    texts = ["short", book, blank, "x" * 50_000]
    expected = tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    seen = []

    def watching(given, **options):
        seen.extend([given] if isinstance(given, str) else given)
        return tokenizer(given, **options)

    assert tokenized(watching, texts, max_length=64)["input_ids"] == expected
    assert max(len(text) for text in seen if text[0] not in " x") < 10_000
