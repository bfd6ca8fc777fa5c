"""Files are labeled and encoded piece by piece, and by two processes as by one."""

import os
import subprocess
import sys
import tracemalloc
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from tests.helpers import CHECKOUT
from tests.test_advisor_audit import planted
from tlbook import __main__ as command
from tlbook.advisor import files, saving
from tlbook.advisor.reading import read
from tlbook.advisor.strategies import strategies
from tlbook.learning.features import features
from tlbook.sources.pretrained import load

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def data():
    return read(planted(80)).data


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    own = next(s for s in strategies(data, []) if s.name == "word counts")
    model = own.fit(np.arange(len(data)), 0, float("inf"))
    place = tmp_path_factory.mktemp("model") / "saved"
    return saving.save(place, own.kind, model, data.classes, "", modality="text", column="text")


@pytest.fixture
def shards(data, tmp_path):
    """Five files of unequal size and two formats, one with an empty text."""
    found, start = [], 0
    for number, count in enumerate((3, 15, 1, 9, 12)):
        table = pd.DataFrame({"text": [*data.x[start : start + count], " "], "more": 1})
        start += count
        place = tmp_path / f"part-{number}.{('csv', 'parquet')[number % 2]}"
        table.to_csv(place, index=False) if number % 2 == 0 else table.to_parquet(place)
        found.append(place)
    return found


def test_a_file_is_labeled_and_goes_on_where_it_stopped(folder, data, tmp_path, monkeypatch):
    texts = [*data.x[:23], " ", 'a "quoted"\nline, with all']
    source, whole, part = tmp_path / "new.csv", tmp_path / "whole.csv", tmp_path / "part.csv"
    pd.DataFrame({"id": range(25), "text": texts}).to_csv(source, index=False)
    assert files.predict_file(folder, source, whole, chunk=4) == 25
    table = pd.read_csv(whole, keep_default_na=False)
    assert table["row"].tolist() == list(range(1, 26)) and table["label"][23] == ""
    model = saving.load_saved(folder)
    assert table["label"][:23].tolist() == model.predict(data.x[:23]).tolist()

    calls, real = [], saving.Saved.predict

    def stops(self, texts):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, texts)

    monkeypatch.setattr(saving.Saved, "predict", stops)
    with pytest.raises(KeyboardInterrupt):
        files.predict_file(folder, source, part, chunk=4)
    with part.open("ab") as file:
        file.write(b"13,half a li" * 50)
    assert files.predict_file(folder, source, part, chunk=5) == 25
    assert sum(calls[4:]) == 25 - 12 - 1 and part.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.progress*"))
    with pytest.raises(ValueError, match="exists and is no part of this work"):
        files.predict_file(folder, source, part)


def test_memory_stays_flat(folder, tmp_path):
    def peak(rows):
        source = tmp_path / f"{rows}.csv"
        source.write_text("text\n" + "some words of a text\n" * rows)
        tracemalloc.start()
        files.predict_file(folder, source, tmp_path / f"{rows}.out", chunk=200)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(200)
    assert peak(8000) < 1.5 * peak(800)


def test_bad_files_get_one_sentence(folder, tmp_path):
    out = tmp_path / "out.csv"
    (tmp_path / "a.csv").write_text("words\nx\n")
    for name, words in (("a.csv", "no column 'text'"), ("none.csv", "there is no file")):
        with pytest.raises(ValueError, match=words):
            files.predict_file(folder, tmp_path / name, out)
    assert files.predict_file(folder, tmp_path / "a.csv", out, column="words") == 1


def test_shards_are_labeled_as_one_file_is(folder, shards, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert files.predict_files(folder, shards, out) == 45
    model = saving.load_saved(folder)
    for source in shards:
        found = pd.read_csv(out / (source.stem + ".csv"), keep_default_na=False)["label"]
        table = pd.read_csv(source) if source.suffix == ".csv" else pd.read_parquet(source)
        assert found.to_list() == [*model.predict(table["text"][:-1]), ""]

    # a second run has nothing to do, but for a shard that changed
    monkeypatch.setattr(saving.Saved, "predict", None)
    assert files.predict_files(folder, shards, out) == 45
    shards[0].write_text("text\nanother\n")
    with pytest.raises(ValueError, match="no part of this work"):
        files.predict_files(folder, shards, out)
    twin = tmp_path / "twin" / "part-0.csv"
    twin.parent.mkdir()
    twin.write_text("text\nx\n")
    with pytest.raises(ValueError, match="two files are called part-0"):
        files.predict_files(folder, [*shards, twin], out)
    with pytest.raises(ValueError, match="there is no file"):
        files.predict_files(folder, [tmp_path / "none.csv"], out)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_all_files_out(count, shards, monkeypatch):
    parts = []
    for index in range(count):
        state = type("State", (), {"num_processes": count, "process_index": index})
        monkeypatch.setattr(files, "PartialState", lambda cpu, state=state: state)
        parts.append(files.share(shards))
    assert sorted(chain.from_iterable(parts)) == sorted(shards) and all(parts)
    bytes_of = [sum(source.stat().st_size for source in part) for part in parts]
    largest = max(source.stat().st_size for source in shards)
    assert max(bytes_of) - min(bytes_of) <= largest


@pytest.mark.slow
def test_two_processes_write_what_one_does(folder, shards, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    for launcher, name in (([], "one"), (TORCHRUN, "two")):
        for what in (["predict", str(folder)], ["features", "minilm-l6"]):
            place = tmp_path / name / what[0]
            arguments = [*what, *map(str, shards), "--out", str(place)]
            start = [sys.executable, *launcher, "-m", "tlbook", *arguments]
            run = subprocess.run(
                start, capture_output=True, text=True, env=environment, timeout=300
            )
            assert run.returncode == 0, run.stderr[-2000:]
        counts = sorted(
            int(line.split()[0]) for line in run.stdout.splitlines() if " rows " in line
        )
        assert sum(counts) == 45 and len(counts) == (1 if name == "one" else 2) and all(counts)
    one = {file.name: file for file in (tmp_path / "one").rglob("*") if file.is_file()}
    two = {file.name: file for file in (tmp_path / "two").rglob("*") if file.is_file()}
    assert set(one) == set(two) and len(one) == 4 * 5
    for name, file in one.items():
        if name.endswith(".npy"):
            assert np.abs(np.load(file) - np.load(two[name])).max() < 1e-5
        else:
            assert file.read_bytes() == two[name].read_bytes()


def test_texts_are_encoded_and_not_twice(shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "vectors"
    given = ["features", "minilm-l6", *map(str, shards), "--out", str(out)]
    assert command.main(given) == 0 and "45 rows" in capsys.readouterr().out
    found = np.load(out / "part-0.npy", mmap_mode="r")
    texts = pd.read_csv(shards[0])["text"]
    expected = features(load("minilm-l6"), list(texts[:-1]), cache=False)
    assert np.abs(found[:-1] - expected).max() < 1e-5 and not found[-1].any()
    monkeypatch.setattr(files, "features", None)
    assert command.main(given) == 0
    shards[0].write_text("text\nanother\n")
    assert command.main(given) == 1 and "of something else" in capsys.readouterr().err
