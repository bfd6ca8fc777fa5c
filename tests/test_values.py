"""Computed values in a translated edition."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from babel.messages.pofile import read_po, write_po

from tests.helpers import build, chapter, write

CODE = "from myst_nb import glue\nglue('gain', 7.26, display=False)\nglue('best', 'encoder')"
PROSE = """
The gain is {glue:text}`gain:.1f` points, with the {glue:text}`best`.

- See {glue:text}`/chapters/a.md::best`.
"""


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_find_the_tools")
def test_a_translated_paragraph_shows_its_values(tmp_path):
    root = write(tmp_path, a=chapter("A", CODE) + PROSE)
    book = yaml.safe_load((Path(__file__).parents[1] / "_config.yml").read_text())
    config = yaml.safe_load((root / "_config.yml").read_text())
    config["repository"] = {"url": "https://github.com/sample/book"}
    config["sphinx"] = {
        "local_extensions": book["sphinx"]["local_extensions"],
        "config": {"gettext_compact": False, "language": "zh_CN", "locale_dirs": ["locale"]},
    }
    (root / "_config.yml").write_text(yaml.safe_dump(config))

    def run(*options: str) -> None:
        # Sphinx keeps one language for a process
        command = [sys.executable, "-W", "ignore", "-m", "tools.export", *options]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        assert done.stderr == ""

    run("--gettext")
    texts = root / "_build" / "gettext"
    for file in texts.rglob("*.pot"):
        with file.open("rb") as content:
            catalog = read_po(content)
        for message in filter(lambda message: message.id, catalog):
            message.string = f"译文 {message.id}"
        translated = root / "locale" / "zh_CN" / "LC_MESSAGES" / file.relative_to(texts)
        translated.parent.mkdir(parents=True, exist_ok=True)
        with translated.with_suffix(".po").open("wb") as content:
            write_po(content, catalog)

    run()
    notebook = (root / "chapters" / "a.ipynb").read_text("utf-8")
    assert "译文 The gain is <<gain:.1f>> points, with the <<best>>." in notebook

    status, output = build(root)
    assert status == 0, output
    page = (root / "_build" / "html" / "chapters" / "a.html").read_text("utf-8")
    shown = " ".join(re.sub("<[^>]+>", "", page).split())
    assert "译文 The gain is 7.3 points, with the encoder." in shown
    assert "译文 See encoder." in shown
