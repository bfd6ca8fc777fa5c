"""What an audit finds in planted data, and that it is silent where there is nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tlbook.advisor import audit as module
from tlbook.advisor.audit import audit, likely_groups, near_duplicates, read_by, suspicious_labels
from tlbook.advisor.reading import read

WORDS = np.array([f"{a}{b}{c}" for a in "kmprst" for b in "aeiou" for c in "lnrs"])
SLOVENIAN = [
    "Izdelek je prišel poškodovan in prodajalec se ne odziva na sporočila.",
    "Zelo sem zadovoljna z nakupom, priporočam vsakomur.",
    "Knjiga je dolgočasna, prebral sem le polovico poglavij.",
    "Hotel leži ob morju, osebje je prijazno in zajtrk odličen.",
    "Čakali smo dve uri, nato pa so nam povedali, da je vse zasedeno.",
]
ENGLISH = [
    "The product arrived damaged and the seller does not answer my messages.",
    "I am very happy with this purchase and recommend it to everyone.",
    "The book is boring, I read only half of its chapters.",
]


def planted(n: int = 200, seed: int = 0, **columns):
    """Texts of random words, two of which give the label away."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    signal = [["good", "fine", "lovely"], ["bad", "awful", "poor"]]
    texts = [
        " ".join([*rng.choice(WORDS, 8), *rng.choice(signal[label], 2)]) for label in y
    ]  # fmt: skip
    labels = np.array(["positive", "negative"])[y]
    return pd.DataFrame({"text": texts, "label": labels} | columns)


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    from tlbook.sources import hubs
    from tlbook.sources.catalog import packaged

    if not hubs.present(packaged()["minilm-l6"]):
        pytest.skip("MiniLM is not in the cache")
    return transformers.AutoTokenizer.from_pretrained(hubs.folder("minilm-l6"))


def test_nothing_is_said_of_clean_data():
    found = audit(read(planted()))
    assert found.notes == () and found.groupings == () and len(found.suspects) == 0
    assert found.classes["examples"].tolist() == [100, 100]


def test_unequal_classes_and_copies_are_said():
    table = planted(240)
    table = pd.concat(
        [table[table["label"] == "positive"], table[table["label"] != "positive"][:15]]
    )
    table = pd.concat([table, table[:3]])
    notes = " ".join(audit(read(table)).notes)
    assert "'positive' has 120 examples, 'negative' 15" in notes
    assert "3 copies of other rows are left out" in notes


def test_near_copies_share_a_number():
    table = planted()
    table.loc[7, "text"] = table["text"][5] + "!"
    table.loc[9, "text"] = table["text"][7].replace(" ", ", ", 1)
    data = read(table).data
    numbers = near_duplicates(data)
    assert numbers[5] == numbers[7] == numbers[9] and len(np.unique(numbers)) == len(data) - 2
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    images[4] = np.minimum(images[3], 254) + 1
    data = replace(data.take(np.arange(30)), x=images)
    numbers = near_duplicates(data)
    assert numbers[3] == numbers[4] and len(np.unique(numbers)) == 29


def test_near_copies_are_said_by_their_rows():
    table = planted()
    table.loc[7, "text"] = table["text"][5] + "!"
    assert any("such as rows 6 and 8" in note for note in audit(read(table)).notes)


def test_a_group_that_leaks_is_found_and_what_it_pretends_measured():
    """Each author has a signature and mostly one opinion: memory passes for understanding."""
    rng, n = np.random.default_rng(0), 240
    author = np.repeat(np.arange(24), 10)
    label = np.where(rng.random(n) < 0.9, author % 2, 1 - author % 2)
    texts = [
        " ".join([*rng.choice(WORDS, 6), f"yours{a}", f"truly{a}"]) for a in author
    ]  # fmt: skip
    table = pd.DataFrame({"text": texts, "label": label, "author": author, "age": rng.random(n)})
    table["id"] = [f"{a}_{i}" for i, a in enumerate(author)]
    found = audit(read(table))
    assert {g.column for g in found.groupings} == {"author", "id before its last number"}
    assert found.groupings[0].pretended > 0.25
    table["author"] = rng.permutation(author)
    shuffled = audit(read(table.drop(columns="id")))
    assert abs(shuffled.groupings[0].pretended) < 0.06


def test_columns_that_cannot_be_groups():
    table = planted(day=[f"day {i % 7}" for i in range(200)], number=range(200))
    assert likely_groups(read(table)) == []


def test_planted_wrong_labels_are_named():
    table = planted(400)
    wrong = [3, 50, 121, 222]
    flipped = table["label"].map({"positive": "negative", "negative": "positive"})
    table.loc[wrong, "label"] = flipped[wrong]
    found = audit(read(table)).suspects
    assert set(found["row"]) == set(wrong)
    assert (found["label"] != found["looks like"]).all() and found["confidence"].min() > 0.5


def test_rare_classes_are_not_judged():
    table = planted(100)
    table.loc[:2, "label"] = "rare"
    data = read(table).data
    vectors = module.simple_features(data)
    assert "rare" not in set(suspicious_labels(data, vectors)["looks like"])


def test_slovenian_is_noticed_and_english_is_not(tokenizer):
    assert not read_by(tokenizer, ENGLISH, 256).is_foreign
    found = read_by(tokenizer, SLOVENIAN, 256)
    assert found.is_foreign and found.pieces > 2 and found.unread == ()
    table = pd.DataFrame({"text": [f"{i} {t}" for i in range(12) for t in SLOVENIAN]})
    table["label"] = np.arange(60) % 2
    notes = " ".join(audit(read(table), tokenizer).notes)
    assert "a language that the encoder hardly knows: its tokenizer breaks" in notes


@pytest.mark.parametrize("text", ["這個產品很好，我很喜歡", "Очень хороший отель, рекомендую всем"])
def test_other_scripts_are_noticed(text, tokenizer):
    found = read_by(tokenizer, [text], 256)
    assert found.is_foreign and found.unread == (next(iter(found.scripts)),)


def test_long_texts_are_counted(tokenizer):
    found = read_by(tokenizer, [ENGLISH[0], " ".join(ENGLISH * 10)], 64)
    assert found.cut == 0.5
