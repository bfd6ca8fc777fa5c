"""Makes the pages a site: scripts, tables, descriptions, a list for search engines (Sphinx).

Nothing here asks the network; addresses come from ``html_baseurl``.
"""

import html
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

from bs4 import BeautifulSoup
from docutils import nodes

from tools import card

#: Characters of a description that search engines show.
SHOWN = 160
NOT_FOUND = "404"
#: Tables of pandas, plain or styled.
PANDAS = r'<table (?:border="\d" class="dataframe|id="T_\w+").*?</table>'
NUMBER = re.compile(r"\s*[-+−±<>≤≥~]?\s*[\d.,]*\d\s*(%|[eE][-+]?\d+)?\s*|\s*(NaN|nan|-|–|—)?\s*")


def scripts(app, config) -> None:
    """Load scripts after the page, and MathJax only where there is mathematics.

    Jupyter Book adds every script below ``html_static_path`` to every page; Sphinx adds MathJax
    itself to the pages with equations.
    """
    config.html_js_files = [
        (name, {"defer": "defer"})
        for name in config.html_js_files
        if not config.mathjax_path.endswith(str(name))
    ]


def drawings(app, doctree: nodes.document, page: str) -> None:
    """Mark the figures that are lines and words alone: in the dark they may turn their colors."""
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir, image["uri"])
        if file.suffix == ".svg" and file.exists() and b"<image" not in file.read_bytes():
            image["classes"].append("drawing")


def page(app, name: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Tables and folded cells in the body, description and cards in the head."""
    if body := context.get("body"):
        body = re.sub(r"<style scoped>.*?</style>\s*", "", body, flags=re.DOTALL)
        body = re.sub(PANDAS, table, body, flags=re.DOTALL)
        body = re.sub(r'<th class="(head[^"]*)"><p></p></th>', r'<td class="\1"></td>', body)
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')  # of a list, which it is
        # its words say what it does; another name would hide them from who cannot see
        context["body"] = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    if doctree is not None:
        text, title = description(doctree), re.sub(r"<.*?>", "", context["title"])
        about = {"og:title": html.unescape(title), "og:site_name": app.config.html_title}
        about |= {"og:type": "article", "og:description": text, "og:url": context["pageurl"]}
        about |= (picture := card.tags(app))
        tags = [
            f'<meta property="{key}" content="{html.escape(about[key])}"/>'
            for key in about
            if about[key]
        ]
        if text:
            tags.append(f'<meta name="description" content="{html.escape(text)}"/>')
        shape = "summary_large_image" if picture else "summary"
        tags.append(f'<meta name="twitter:card" content="{shape}"/>')
        context["metatags"] = context.get("metatags", "") + "\n".join(tags)
    elif name == NOT_FOUND:  # a server shows it at any depth
        base = html.escape(urlsplit(app.config.html_baseurl).path or "/")
        context["metatags"] = f'<base href="{base}"/>' + context.get("metatags", "")


def description(doctree: nodes.document) -> str:
    """The first sentences of a page, as many as are shown."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document):
            text = re.sub(r"\s+", " ", paragraph.astext()).strip()
            if len(text) <= SHOWN:
                return text
            whole = re.match(rf".{{0,{SHOWN - 1}}}[.?!](?=\s)", text)
            return whole[0] if whole else text[: SHOWN - 2].rpartition(" ")[0] + " …"
    return ""


def table(found: re.Match) -> str:
    """A table of pandas without empty headers, its columns of words marked ``words``.

    The name of an index stands in a header row of its own: it moves up into the empty cell there.
    """
    soup = BeautifulSoup(found[0], "html.parser")
    whole = soup.table
    whole["class"] = "dataframe"
    del whole["border"]
    head = whole.thead.find_all("tr") if whole.thead else []
    for row in head:
        row.attrs.pop("style", None)
    if len(head) == 2 and not whole.thead.find(colspan=True):
        pairs = list(zip(head[0].find_all("th"), head[1].find_all("th"), strict=False))
        if all(not (upper.text.strip() and lower.text.strip()) for upper, lower in pairs):
            for upper, lower in pairs:
                upper.string = upper.text.strip() or lower.text.strip()
            head[1].decompose()
    for cell in [cell for row in head for cell in row.find_all("th") if not cell.text.strip()]:
        cell.name = "td"
    # counted from the right: a cell that spans rows shifts what stands right of it
    rows = [row.find_all("td")[::-1] for row in whole.tbody.find_all("tr")] if whole.tbody else []
    for column in range(max(map(len, rows), default=0)):
        cells = [row[column] for row in rows if column < len(row)]
        if not all(NUMBER.fullmatch(cell.text) for cell in cells):
            tops = [row.find_all(["th", "td"])[::-1] for row in whole.thead.find_all("tr")]
            cells += [
                row[column] for row in tops if len(row) > column and not row[column].get("colspan")
            ]
            for cell in cells:
                cell["class"] = [*cell.get("class", []), "words"]
    return str(whole)


def missing_page(app):
    """The page that a server shows in place of one that does not exist."""
    body = (
        "<h1>This page does not exist</h1>"
        "<p>It may have moved. Look for it in the table of contents, or search.</p>"
    )
    yield NOT_FOUND, {"title": "Page not found", "body": body}, "page.html"


def for_robots(app, failed: Exception | None) -> None:
    """Write the list of pages for search engines."""
    base = app.config.html_baseurl
    if failed or app.builder.name != "html" or not base:
        return
    addresses = [
        f"  <url><loc>{html.escape(base + quote(app.builder.get_target_uri(name)))}</loc></url>"
        for name in sorted(app.env.found_docs)
    ]
    places = "http://www.sitemaps.org/schemas/sitemap/0.9"
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f'<urlset xmlns="{places}">', *addresses]
    Path(app.outdir, "sitemap.xml").write_text("\n".join([*lines, "</urlset>\n"]), "utf-8")
    Path(app.outdir, "robots.txt").write_text(f"User-agent: *\nSitemap: {base}sitemap.xml\n")


def setup(app) -> dict:
    app.connect("config-inited", scripts)
    app.connect("doctree-resolved", drawings)
    app.connect("html-page-context", page)
    app.connect("html-collect-pages", missing_page)
    app.connect("build-finished", for_robots)
    app.connect("build-finished", card.make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
