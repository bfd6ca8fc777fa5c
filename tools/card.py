"""Draws the picture that other sites show with a link to the book (Sphinx).

Every finding of the ledger is a dot at its effect, with its interval: what the book is about, as it
stands at this build.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tools.ledger import RECORD

FILE = Path("_static", "card.png")
#: Pixels, as the common sites ask for.
SIZE = (1200, 630)
ALT = "Effects that the book measured, each a dot with its interval, from losses to gains"
#: Points beyond which an effect stands at the edge.
LIMIT = 50
INK = "#14171c"
COLORS = {
    "supported": "#0072b2",
    "refuted": "#d55e00",
    "negligible": "#8a8a8a",
    "undecided": "#c9c9c9",
}


def draw(ledger: dict, title: str, file: Path) -> None:
    """Write the card.

    Parameters
    ----------
    ledger : dict
        The claims with their findings.
    title : str
        The title of the book.
    file : pathlib.Path
        The PNG to write.
    """
    rows = [f for row in ledger.values() for f in row["findings"] if f["unit"] == "points"]
    rows.sort(key=lambda finding: finding["effect"])
    figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="#ffffff")
    figure.text(0.05, 0.86, title, size=40, weight="bold", color=INK)
    said = f"{len(ledger)} claims about pretrained models, put to the test"
    figure.text(0.05, 0.775, said, size=22, color="#48566b")
    axes = figure.add_axes((0.05, 0.15, 0.9, 0.57))
    for place, finding in enumerate(rows):
        low, value, high = 100 * np.clip(
            [finding["interval"][0], finding["effect"], finding["interval"][1]],
            -LIMIT / 100,
            LIMIT / 100,
        )
        color = COLORS[finding["verdict"]]
        axes.plot([place, place], [low, high], color=color, lw=2.5, alpha=0.6)
        axes.plot(place, value, "o", color=color, ms=6)
    axes.axhline(0, color=INK, lw=1.5)
    axes.set(xlim=(-1, len(rows)), xticks=[], ylim=(-LIMIT, LIMIT), yticks=[])
    axes.text(0, 12, "speaks for the claim ↑", size=18, color=INK)
    axes.text(len(rows) - 1, -14, "speaks against it ↓", size=18, color=INK, ha="right")
    for side in axes.spines.values():
        side.set_visible(False)
    for place, verdict in enumerate(COLORS):
        count = sum(f["verdict"] == verdict for row in ledger.values() for f in row["findings"])
        figure.text(0.05 + 0.24 * place, 0.06, "●", size=19, color=COLORS[verdict])
        figure.text(0.075 + 0.24 * place, 0.06, f"{count} {verdict}", size=19, color=INK)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


def make(app, failed: Exception | None) -> None:
    """Draw the card of a book that has a ledger."""
    record = Path(app.srcdir, RECORD)
    if not failed and app.builder.name == "html" and record.exists():
        draw(json.loads(record.read_text("utf-8")), app.config.html_title, Path(app.outdir, FILE))


def tags(app) -> dict[str, str]:
    """What a page says of the card; nothing without an address of the book or a ledger."""
    if not app.config.html_baseurl or not Path(app.srcdir, RECORD).exists():
        return {}
    width, height = SIZE
    address = f"{app.config.html_baseurl.rstrip('/')}/{FILE.as_posix()}"
    size = {"og:image:width": str(width), "og:image:height": str(height)}
    return {"og:image": address, "og:image:alt": ALT} | size
