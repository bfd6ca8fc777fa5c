"""What is made of the pages on their way to the site."""

import json
import re
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from matplotlib import image

from tools import card, ran, site


def rendered(frame):
    """A table as the pages show it."""
    found = re.search(r"<table.*?</table>", frame.to_html(), re.DOTALL)
    return BeautifulSoup(site.table(found), "html.parser")


def rows(table) -> list[list[str]]:
    return [[cell.text for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


@pytest.fixture
def frame():
    pandas = pytest.importorskip("pandas")
    columns = {"arm": ["a", "b"], "gain": [-1.5, 2], "note": ["1.2 points", "3"]}
    return pandas.DataFrame(columns)


def test_numbers_stand_right_and_words_left(frame):
    table = rendered(frame)
    words = {cell.text for cell in table.find_all(class_="words")}
    assert words == {"arm", "a", "b", "note", "1.2 points", "3"}


def test_the_name_of_an_index_moves_into_the_empty_header(frame):
    table = rendered(frame.set_index("arm"))
    assert rows(table)[0] == ["arm", "gain", "note"]
    assert len(table.thead.find_all("tr")) == 1


def test_no_header_is_empty_and_none_is_lost(frame):
    wide = frame.pivot_table(index=["note", "arm"], values=["gain"], columns=["arm"])
    before = {cell.text for cell in BeautifulSoup(wide.to_html(), "html.parser").find_all("th")}
    table = rendered(wide)
    headers = {cell.text for cell in table.find_all("th")}
    assert headers == before - {""}
    spanned = rendered(wide.sort_index())  # the first cell of a row may span several
    assert all("words" not in cell.get("class", []) for cell in spanned.tbody.find_all("td"))


def test_a_styled_table_has_the_looks_of_a_plain_one(frame):
    styled = frame.set_index("arm").rename_axis(None).style.to_html()
    body = re.sub(site.PANDAS, site.table, f"{frame.to_html()}<p>{styled}", flags=re.DOTALL)
    plain, table = BeautifulSoup(body, "html.parser").find_all("table", class_="dataframe")
    assert table.find("td", class_="blank") and not plain.find(class_="blank")
    assert all(cell.text.strip() for cell in table.find_all("th"))
    cells = {cell.text for cell in table.find_all(class_="words")}
    assert cells == {"note", "1.2 points", "3"}
    assert "col1" in table.find("td", string="1.2 points")["class"]  # its own style finds it


def page(*texts: str) -> nodes.document:
    document = nodes.document(None, None)
    section = nodes.section("", nodes.title("", "Title"))
    section += nodes.note("", nodes.paragraph("", "A box."))
    section += [nodes.paragraph("", text) for text in texts]
    document += section
    return document


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One\nsentence.", "One sentence."),
        ("A short one. " + "Long " * 40, "A short one."),
        (
            "First v1.5. " + "word " * 24 + "end. " + "Long " * 9,
            "First v1.5. " + "word " * 24 + "end.",
        ),
    ],
)
def test_the_first_sentences_describe_a_page(text, shown):
    assert site.description(page(text, "Another paragraph.")) == shown


def test_a_long_sentence_ends_between_words():
    shown = site.description(page("word " * 99))
    assert len(shown) <= site.SHOWN and shown.endswith("word …")


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (
            {"wall_seconds": 19, "peak_mb": 830, "assets": ["minilm-l6", "gone"]},
            "Runs in about 20 s on two cores; 830 MB of memory; "
            "models and data fetched once: 84 MB.",
        ),
        ({"wall_seconds": 1, "peak_mb": 96}, "Runs in about 5 s on two cores; 96 MB of memory."),
        (
            {"wall_seconds": 260, "peak_mb": 2740, "assets": []},
            "Runs in about 4 minutes on two cores; 2.7 GB of memory.",
        ),
        ({}, ""),
        ({"wall_seconds": 19}, ""),
    ],
)
def test_what_a_chapter_takes(cost, said):
    assert ran.takes(cost) == said


def app(folder, baseurl="https://example.org/book/"):
    config = SimpleNamespace(html_baseurl=baseurl, html_title="A book")
    builder = SimpleNamespace(name="html")
    return SimpleNamespace(srcdir=folder, outdir=folder / "html", config=config, builder=builder)


def test_the_card_has_a_dot_for_each_finding(tmp_path):
    assert card.tags(app(tmp_path)) == {}
    card.make(app(tmp_path), None)  # a book without a ledger
    assert not (tmp_path / "html").exists()
    finding = {"interval": [0.1, 0.3], "effect": 0.2, "unit": "points", "verdict": "supported"}
    ledger = {"C1": {"findings": [finding, finding | {"unit": "percent"}]}}  # no id
    (tmp_path / card.RECORD).parent.mkdir(parents=True)
    (tmp_path / card.RECORD).write_text(json.dumps(ledger))
    card.make(app(tmp_path), None)
    pixels = image.imread(tmp_path / "html" / card.FILE)
    assert pixels.shape[:2] == card.SIZE[::-1]
    card.draw({"C1": {"findings": []}}, "A book", tmp_path / "empty.png")  # no id
    assert (pixels != image.imread(tmp_path / "empty.png")).any()
    assert card.tags(app(tmp_path))["og:image"] == "https://example.org/book/_static/card.png"
    assert card.tags(app(tmp_path, "")) == {}
