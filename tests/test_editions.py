"""What changed in the verdicts since the last release."""

import json
from pathlib import Path

import pytest

from tools import editions
from tools.ledger import RECORD

ROOT = Path(__file__).parents[1]


def finding(setting, verdict, effect=0.1, **more):
    ends = {"effect": effect, "interval": [effect - 0.05, effect + 0.05], "seeds": 5}
    kinds = {"chapter": "a", "unit": "points", "survives_fdr": True}
    return {"setting": setting, "verdict": verdict} | ends | kinds | more


@pytest.fixture
def root(tmp_path):
    (tmp_path / editions.FOLDER).mkdir(parents=True)
    (tmp_path / RECORD).parent.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.10"\n')
    rows = [finding("x", "supported"), finding("the gap hurts, y", "undecided")]
    ledger = {
        "C1": {"verdict": "undecided", "findings": rows},  # no id
        "C2": {"verdict": "refuted", "findings": [finding("z", "refuted")]},  # no id
    }
    (tmp_path / RECORD).write_text(json.dumps(ledger))
    return tmp_path


def edition(root, name, *rows):
    (root / editions.FOLDER / f"{name}.json").write_text(json.dumps(rows))


def test_each_finding_is_the_same_another_new_or_gone(root):
    old = {"claim": "C1"}  # no id
    first = [
        old | finding("x", "refuted", effect=-0.1),
        old | finding("y", "not shown"),
        old | finding("w", "supported"),
    ]
    for row in first:
        del row["survives_fdr"]
    edition(root, "first", *first)
    found = editions.changes(root, "1.10")
    assert found.name == "first" and found.same == 1 and found.claims == []
    assert [(was["effect"], now["effect"]) for was, now in found.other] == [(-0.1, 0.1)]
    assert [row["setting"] for row in found.new] == ["z"]
    assert [row["setting"] for row in found.gone] == ["w"]


def test_claims_change_where_the_older_edition_has_their_verdicts(root):
    edition(root, "1.9", *({"claim": "C2"} | finding("z", "supported") for _ in "1"))  # no id
    assert editions.changes(root, "1.10").claims == [("C2", "supported", "refuted")]  # no id


def test_the_last_edition_is_the_newest_before_this_version(root):
    for name in ("first", "1.2", "1.9", "1.10", "1.11"):
        edition(root, name)
    assert editions.last(root, "1.10").stem == "1.9"
    assert editions.last(root, "1.2").stem == "first"


def test_an_edition_is_the_record_and_differs_in_nothing(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert editions.main() == 0
    assert "1.10.json" in capsys.readouterr().out
    found = editions.changes(root, "2.0")
    assert (found.name, found.same) == ("1.10", 3)
    assert not (found.other or found.new or found.gone)


def test_every_finding_of_the_record_is_counted_once():
    found = editions.changes(ROOT, "0.1.0")
    ledger = json.loads((ROOT / RECORD).read_text("utf-8"))
    assert found.same + len(found.other) + len(found.new) == len(editions.findings(ledger))
    then = json.loads((ROOT / editions.FOLDER / "first.json").read_text("utf-8"))
    assert found.same + len(found.other) + len(found.gone) == len(then)
