"""From a file to an answer, a page and JSON; networks where MiniLM is in the cache."""

import json
import time
from html import escape

import numpy as np
import pytest

import tlbook
from tests.test_advisor_audit import planted, tokenizer  # noqa: F401
from tlbook import __main__ as command
from tlbook.advisor import advice
from tlbook.advisor.reading import read
from tlbook.advisor.strategies import Encoded, OutOfTime, strategies

MORE_LABELS = advice._more_labels


@pytest.fixture
def without_encoders(monkeypatch):
    """No encoder is loaded: counts alone compete. What more labels are worth is not measured."""
    monkeypatch.setattr(advice, "_encoders", lambda reading, *rest: ([], reading))
    monkeypatch.setattr(advice, "_more_labels", lambda *rest: (None, "It was not measured.", ()))


@pytest.fixture
def with_curve(without_encoders, monkeypatch):
    monkeypatch.setattr(advice, "_more_labels", MORE_LABELS)


@pytest.fixture
def table():
    found = planted(150)
    found.loc[9, "text"] = found["text"][5] + "!"
    return found


def test_a_table_becomes_an_answer(table, without_encoders):
    lines = []
    found = tlbook.advise(table, minutes=1, say=lines.append)
    assert found.answer.recommended in ("word counts", "letter counts")
    assert found.answer.sentences[0] in str(found) and "Expect" in found._repr_html_()
    assert found.answer.expected.low <= found.answer.expected.value <= 1
    assert any("best so far" in line for line in lines) and found.seconds < 60
    parts = found.results.parts
    assert all(({5, 9} <= set(test)) == bool({5, 9} & set(test)) for _, test in parts)


def test_rows_without_a_label_are_put_in_order(table, without_encoders):
    missing = np.arange(0, 150, 3)
    table["label"] = table["label"].astype(object)
    table.loc[missing, "label"] = None
    found = tlbook.advise(table, minutes=1)
    assert len(found.to_label) == advice.NEXT and set(found.to_label["row"]) <= set(missing)
    assert found.to_label["margin"].is_monotonic_increasing
    shown = found.to_dict()["to label"][0]
    assert table["text"][shown["row"] - 1].startswith(shown["input"])
    assert f"without a label, label these first: {shown['row']}," in str(found)
    assert (
        "To label next" in found.report()
        and "To label next" not in tlbook.advise(table.dropna(), minutes=1)._repr_html_()
    )


def test_more_labels_are_weighed_where_minutes_are_left(with_curve):
    found = tlbook.advise(planted(250), minutes=1)
    assert found.more.labels == pytest.approx(124, abs=2) and found.more.more == 100
    last = found.answer.sentences[-1]
    assert "100 more labels per class" in last or "More labels are not worth it" in last
    assert last in str(found) and escape(last) in found.report()
    assert found.to_dict()["more labels"]["high"] == found.more.high
    chosen, few = strategies(found.data, []), found.data.take(np.arange(100))
    more, text, _ = advice._more_labels(found.answer, chosen, few, np.inf, 0, print)
    assert more is None and "was not measured: " in text and "too few" in text
    networks = [advice.replace(strategy, is_linear=False) for strategy in chosen]
    more, text, _ = advice._more_labels(found.answer, networks, found.data, np.inf, 0, print)
    assert more is None and "trains a network" in text


def test_the_command_writes_a_page_and_json(table, without_encoders, tmp_path, capsys):
    table["text"] += " <script>alert(1)</script>"
    table.to_csv(tmp_path / "my.csv", index=False)
    page, saved = tmp_path / "report.html", tmp_path / "report.json"
    options = ["--minutes", "1", "--report", str(page), "--json", str(saved)]
    assert command.main(["advise", str(tmp_path / "my.csv"), *options]) == 0
    out = capsys.readouterr().out
    content = json.loads(saved.read_text())
    assert content["sentences"][0] in out and content["recommended"] in page.read_text()
    assert content["strategies"][0]["strategy"] == "majority"
    assert "<script" not in page.read_text() and "http" not in page.read_text()


def test_the_command_refuses_in_one_line(table, tmp_path, capsys):
    assert command.main(["advise", str(tmp_path / "none.csv")]) == 1
    assert capsys.readouterr().err.startswith("there is no file or folder")
    table.to_csv(tmp_path / "my.csv", index=False)
    place = str(tmp_path / "none" / "r.html")
    assert command.main(["advise", str(tmp_path / "my.csv"), "--report", place]) == 1
    assert "make it first" in capsys.readouterr().err


def test_a_leaking_group_is_kept_whole(table, without_encoders):
    reading = read(table)
    seen = advice.audit(reading)
    from tlbook.advisor.audit import Grouping

    author = np.arange(150) // 3
    leaking = advice.replace(seen, groupings=(Grouping("author", author, 0.1),))
    notes = []
    groups = advice._kept_whole(reading, leaking, None, notes)
    assert len(np.unique(groups)) == 49 and "same author are kept" in notes[0]  # 5 and 9 join two
    harmless = advice.replace(seen, groupings=(Grouping("author", author, 0.0),))
    assert len(np.unique(advice._kept_whole(reading, harmless, None, []))) == 149


def test_part_of_the_examples_keeps_each_class():
    data = read(planted(200)).data
    part = advice._some(data, 50, 0)
    assert np.bincount(part.y).tolist() == [25, 25]


def test_networks_train_and_stop_at_the_deadline(tokenizer):  # noqa: F811
    from tlbook.learning.features import features
    from tlbook.sources.pretrained import load

    data = read(planted(40)).data
    encoder = load("minilm-l6")
    vectors = features(encoder, data.x, cache=False, progress=False)
    encoded = Encoded("minilm-l6", encoder, vectors, 0.01, 0.01, 90.0)
    found = {s.name: s for s in strategies(data, [encoded])}
    assert {"frozen features", "head only", "last two layers", "LoRA", "all layers"} <= set(found)
    train, test = np.arange(24), np.arange(24, 40)
    run = found["head only"].run(train, test, 0, time.monotonic() + 60)
    assert run.predicted.shape == (16,) and run.train_seconds > 0 < run.predict_seconds
    for name in ("LoRA", "all layers"):
        with pytest.raises(OutOfTime):
            found[name].run(train, test, 0, time.monotonic() - 1)
    assert found["all layers"].forecast(100, 20) > found["last two layers"].forecast(100, 20)
    frozen = found["frozen features"].run(train, test, 0, 0.0)
    assert (frozen.predicted == data.y[test]).mean() > 0.6 and frozen.predict_seconds >= 10


def test_images_are_fine_tuned_too():
    from tlbook.sources import hubs
    from tlbook.sources.catalog import packaged
    from tlbook.sources.pretrained import load

    if not hubs.present(packaged()["efficientnet-lite0"]):
        pytest.skip("EfficientNet is not in the cache")
    data = read(planted(24)).data
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    encoder = advice.replace(load("efficientnet-lite0"), size=32)
    encoded = Encoded("efficientnet-lite0", encoder, np.zeros((24, 1280)), 0.01, 0.01, 17.0)
    found = {s.name: s for s in strategies(advice.replace(data, x=images), [encoded])}
    assert {"pixels", "frozen features", "last four blocks", "all layers"} < set(found)
    run = found["last four blocks"].run(np.arange(8), np.arange(8, 24), 0, time.monotonic() + 60)
    assert run.predicted.shape == (16,) and run.train_seconds > 0
    with pytest.raises(OutOfTime):
        found["all layers"].run(np.arange(8), np.arange(8, 24), 0, time.monotonic() - 1)
