"""A published classifier: read by transformers alone, with a card that says what must be said."""

import ast
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tlbook import data
from tlbook.evidence.effects import Effect
from tlbook.methods import publish
from tlbook.sources.pretrained import classifier

REVIEWS = data.labeled(
    [f'a "film" number {i}' for i in range(40)],
    ["negative", "positive"] * 20,
    name="toy reviews",
    license="CC0-1.0",
    citation="nobody (2026)",
)
ABOUT = {
    "base": "minilm-l6",
    "data": REVIEWS,
    "train": np.arange(10),
    "test": np.arange(10, 40),
    "scores": {"toy reviews": Effect(0.75, 0.7, 0.8, 5), "others": Effect(0.6, 0.55, 0.65, 5)},
    "settings": "AdamW, 3 epochs",
    "limits": "English film reviews only.",
    "license": "Apache-2.0",
    "language": "en",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    model, tokenizer = classifier("minilm-l6", REVIEWS.classes, seed=1)
    card = publish.model_card("someone/toy", **ABOUT, seed=3)
    folder = publish.save(model, tokenizer, card, tmp_path_factory.mktemp("hub") / "toy")
    return folder, model, tokenizer


def test_transformers_alone_reads_it(published):
    """In a process that knows nothing of this package, and gives the same numbers."""
    folder, model, tokenizer = published
    code = f"""
import json, sys
from transformers import AutoModelForSequenceClassification, pipeline
classify = pipeline("text-classification", {str(folder)!r}, top_k=None)
AutoModelForSequenceClassification.from_pretrained({str(folder)!r})
assert "tlbook" not in sys.modules
print(json.dumps(classify(["a fine film"])))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (rows,) = json.loads(run.stdout.splitlines()[-1])
    found = {row["label"]: row["score"] for row in rows}
    with torch.inference_mode():
        logits = model(**tokenizer("a fine film", return_tensors="pt")).logits[0]
    expected = dict(zip(REVIEWS.classes, logits.softmax(0).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)
    names = {file.name for file in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_card_is_what_the_hub_reads(published):
    card = ModelCard.load(published[0] / "README.md")
    about = card.data
    assert (about.license, about.language, about.base_model) == ("apache-2.0", "en", "minilm-l6")
    assert about.pipeline_tag == "text-classification"
    assert [result.metric_value for result in about.eval_results] == [0.75, 0.6]
    assert "95% interval 0.700 to 0.800, 5 seeds" in about.eval_results[0].metric_name
    for words in (
        "| toy reviews | 75.0 | 70.0 to 80.0 | 5 |",
        "| others | 60.0 | 55.0 to 65.0 | 5 |",
        "toy reviews, 10 labeled examples, classes negative, positive",
        "Balanced accuracy on 30 examples",
        "CC0-1.0",
        "nobody (2026)",
        "one seed, 3",
        "English film reviews only.",
        'classify("A text like yours.")',
    ):
        assert words in card.text
    assert "More Information Needed" not in card.text


def test_no_text_of_the_data_is_in_the_card(published):
    content = (published[0] / "README.md").read_text()
    assert not [text for text in REVIEWS.x if text in content or text.replace('"', "'") in content]


HOSTILE = (
    'a | b <script>alert("x")</script> `code` [link](javascript:x) *star* # 1. \n\n```\n# head'
)


def test_what_users_give_stays_text():
    """Rendered as the hub does it, by CommonMark with tables, HTML allowed."""
    given = replace(
        REVIEWS, name=HOSTILE, classes=(HOSTILE, "no"), license=HOSTILE, citation=HOSTILE
    )
    about = ABOUT | {"data": given, "settings": HOSTILE, "limits": HOSTILE, "base": HOSTILE}
    about |= {
        "scores": {HOSTILE: Effect(0.75, 0.7, 0.8, 5)},
        "summary": HOSTILE,
        "example": HOSTILE,
    }
    card = publish.model_card("someone/toy", **about)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    page = BeautifulSoup(html, "html.parser")
    assert not page.find_all(["script", "a", "em"])
    assert [heading.text for heading in page.find_all("h1")] == ["someone/toy"]
    assert len(page.find_all("tr")) == 2 and len(page.find_all("td")) == 4
    shown = " ".join(HOSTILE.split())
    assert page.find("td").text == shown
    assert all(any(shown in part.text for part in page.find_all(tag)) for tag in ("p", "li"))
    (code,) = page.find_all("pre")
    called = ast.parse(code.text).body[-1].value.args[0].value
    assert called == shown  # one string, whatever is in it
    assert card.data.eval_results[0].dataset_name == HOSTILE


@pytest.mark.parametrize("text", ["# head", "1. one", "- item", "+ item", "--- rule", "> quote"])
def test_a_text_begins_no_block(text):
    (paragraph,) = BeautifulSoup(MarkdownIt().render(publish.plain(text)).strip(), "html.parser")
    assert paragraph.name == "p" and paragraph.text == text


@pytest.mark.parametrize("missing", ["base", "scores", "settings", "limits", "license"])
def test_a_card_without_it_is_refused(missing):
    with pytest.raises(ValueError, match=f"must say: {missing}"):
        publish.model_card("someone/toy", **ABOUT | {missing: {} if missing == "scores" else ""})


def test_scores_on_the_training_rows_are_refused():
    with pytest.raises(ValueError, match="1 rows stand in both"):
        publish.model_card("someone/toy", **ABOUT | {"test": np.arange(9, 40)})


def test_nothing_is_overwritten_or_left_behind(published, tmp_path):
    folder, model, tokenizer = published
    card = publish.model_card("someone/toy", **ABOUT)
    with pytest.raises(FileExistsError, match="new folder"):
        publish.save(model, tokenizer, card, folder)
    names, model.config.id2label = model.config.id2label, {0: "LABEL_0", 1: "LABEL_1"}
    with pytest.raises(ValueError, match="no names"):
        publish.save(model, tokenizer, card, tmp_path / "unnamed")
    model.config.id2label = names
    with pytest.raises(AttributeError):
        publish.save(model, tokenizer, None, tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []
