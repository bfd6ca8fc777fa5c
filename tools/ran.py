"""Says on a chapter's page what it takes to run it, and where its outputs come from (Sphinx)."""

import html
import json
import re
from pathlib import Path

from tlbook.sources import assets


def costs(app, config) -> None:
    """Read what the chapters took; another record writes the pages anew."""
    try:
        config.chapter_costs = json.loads(
            Path(app.srcdir, "results", "chapters.json").read_text("utf-8")
        )
    except (OSError, ValueError):
        config.chapter_costs = {}


def note(app, page: str, template: str, context: dict, doctree) -> None:
    """A line below the title, and one at the end where outputs were downloaded."""
    name = Path(page).name
    if doctree is None or "body" not in context:
        return
    if line := takes(app.config.chapter_costs.get(name, {})):
        line = f'</h1>\n<p class="takes">{html.escape(line)}</p>'
        context["body"] = re.sub("</h1>", lambda _: line, context["body"], count=1)
    if page.startswith("chapters/"):
        folder = context["pathto"]("notebooks", 1)
        context["header_buttons"].append(
            {
                "type": "link",
                "url": f"{folder}/{name}.ipynb",
                "icon": "fas fa-download",
                "tooltip": "Download the notebook with its results",
                "label": "download-notebook",
            }
        )
    try:
        report = Path(app.srcdir, "_build", "runs", f"{name}.json").read_text("utf-8")
        ran = json.loads(report).get("ran")
    except (OSError, ValueError):
        return
    if ran:
        text = f"Ran on {ran['date']}, {ran['machine']}; outputs downloaded, not run here."
        context["body"] += f'<p class="ran"><small>{html.escape(text)}</small></p>'


def takes(cost: dict) -> str:
    """What running a chapter takes, in words; empty: nobody has measured it.

    Parameters
    ----------
    cost : dict
        Its row of the record of costs.

    Returns
    -------
    str
    """
    if not {"wall_seconds", "peak_mb"} <= cost.keys():
        return ""
    seconds, table = cost["wall_seconds"], assets.table()
    time = f"{round(seconds / 60)} minutes" if seconds >= 90 else f"{rounded(seconds, 5)} s"
    parts = [f"Runs in about {time} on two cores", f"{size(cost['peak_mb'])} of memory"]
    if fetched := sum(table[name].size for name in cost.get("assets", []) if name in table):
        parts.append(f"models and data fetched once: {size(fetched / 1e6)}")
    return "; ".join(parts) + "."


def rounded(value: float, step: int) -> int:
    return max(step, step * round(value / step))


def size(megabytes: float) -> str:
    """Megabytes to two digits."""
    if megabytes >= 1000:
        return f"{megabytes / 1000:.1f} GB"
    return f"{rounded(megabytes, 10 if megabytes >= 100 else 1)} MB"


def setup(app) -> dict:
    app.add_config_value("chapter_costs", {}, "html")
    app.connect("config-inited", costs)
    app.connect("html-page-context", note, priority=600)  # when the theme has made its buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
