"""Says on a page whose outputs were downloaded when and on what kind of machine it ran (Sphinx)."""

import html
import json
from pathlib import Path


def setup(app) -> dict:
    app.connect("html-page-context", note)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def note(app, page: str, template: str, context: dict, doctree) -> None:
    report = Path(app.srcdir, "_build", "runs", f"{Path(page).name}.json")
    try:
        ran = json.loads(report.read_text("utf-8")).get("ran")
    except (OSError, ValueError):
        return
    if ran and "body" in context:
        text = f"Ran on {ran['date']}, {ran['machine']}; outputs downloaded, not run here."
        context["body"] += f'<p class="ran"><small>{html.escape(text)}</small></p>'
