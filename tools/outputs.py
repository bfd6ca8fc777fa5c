"""Outputs of chapters that ran elsewhere, as a verified download.

``make outputs`` packs what the last build here executed: for each chapter its outputs and the
report of its run. ``make book OUTPUTS=ADDRESS`` takes from such an archive the chapters whose
report matches the code, assets and packages here, and runs the others.

Nothing of an archive is executed, here or by a reader's browser: of a notebook only outputs of
known types are taken, and their HTML, Markdown and SVG may hold tables and drawings alone. What
an archive says was measured can still be wrong. So its SHA-256 should come from someone trusted
(``ADDRESS#sha256=...`` or ``OUTPUTS_SHA256=...``); ``VERIFY=2`` runs two of its chapters anyway.
"""

import argparse
import base64
import hashlib
import html
import io
import json
import os
import platform
import random
import re
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tlbook.evidence.claims import FINDING, METHOD, TABLE, table
from tools import replicate
from tools.book import Book

MANIFEST = "manifest.json"
#: Bytes that one file of an archive, and that an archive, may have
FILE_LIMIT, ARCHIVE_LIMIT = 30_000_000, 300_000_000

_TAGS = set(
    re.findall(
        r"\S+",
        """
        a b br caption code col colgroup div em hr i li ol p pre small span strong style sub sup
        table tbody td tfoot th thead tr ul
        circle clippath defs desc ellipse g image line lineargradient marker metadata path pattern
        polygon polyline rect stop svg symbol text title tspan use
        rdf:rdf cc:work cc:agent dc:creator dc:date dc:format dc:title dc:type
        """,
    )
)
_ADDRESSES = {"href", "xlink:href", "src", "srcset", "action", "background", "poster", "data"}
#: Attributes whose text is a name or prose, and no style
_NAMES = {"class", "id", "title", "alt", "d", *_ADDRESSES}
_JSON = {FINDING, METHOD, TABLE}
_TEXT = {"text/plain", "application/papermill.record/text/plain"}
_MARKUP = {"text/html", "text/markdown", "image/svg+xml"}


class OutputsError(Exception):
    """An archive that is not taken; the message says why."""


# --- packing ------------------------------------------------------------------------------------


def machine() -> str:
    """The kind of machine, such as ``"x86_64 AMD EPYC 7763, 2 cores"``."""
    words = dict.fromkeys([platform.machine(), replicate.processor()])
    return f"{' '.join(words)}, {os.cpu_count()} cores"


def pack(book, file: Path) -> None:
    """Write the outputs of all chapters to an archive.

    Raises
    ------
    OutputsError : a chapter is stale
    """
    stale = [chapter.name for chapter in book.chapters if book.stale(chapter)]
    if stale:
        raise OutputsError(f"{', '.join(stale)} must run first: make book")
    members, chapters = {}, {}
    for chapter in book.chapters:
        report = book.last_run(chapter)
        when = datetime.fromtimestamp(book.report_file(chapter).stat().st_mtime, UTC)
        here = {"date": when.date().isoformat(), "machine": machine()}
        chapters[chapter.name] = report.pop("ran", here)
        notebook = nbformat.writes(book.executed(chapter), nbformat.NO_CONVERT)
        members[f"{chapter.name}.ipynb"] = notebook.encode()
        members[f"{chapter.name}.json"] = json.dumps(report, indent=1).encode()
    manifest = {
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
        "chapters": chapters,
    }
    members[MANIFEST] = json.dumps(manifest, indent=1).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# --- taking -------------------------------------------------------------------------------------


def fetch(address: str, sha256: str | None = None) -> bytes:
    """The archive at a path or an https address, with the hash that it has to have.

    Raises
    ------
    OutputsError : another scheme, another hash, too large, or not to be had
    """
    address, _, fragment = address.partition("#sha256=")
    expected = {each.lower() for each in (sha256, fragment) if each}
    try:
        if "://" not in address:
            with Path(address).open("rb") as stream:
                content = stream.read(ARCHIVE_LIMIT + 1)
        elif address.startswith("https://"):
            with urllib.request.urlopen(address, timeout=60) as stream:
                if not stream.url.startswith("https://"):
                    raise OutputsError(f"{address} leads to {stream.url}: only https is followed")
                content = stream.read(ARCHIVE_LIMIT + 1)
        else:
            raise OutputsError(f"{address}: give a file or an https address")
    except OSError as error:
        raise OutputsError(f"{address} cannot be read: {error}") from None
    if len(content) > ARCHIVE_LIMIT:
        raise OutputsError(f"{address} has more than {ARCHIVE_LIMIT:,} bytes")
    found = hashlib.sha256(content).hexdigest()
    if expected - {found}:
        wanted = " and ".join(sorted(expected))
        raise OutputsError(f"{address} has the SHA-256 {found}, not {wanted}: it is not used")
    return content


class Archive:
    """The files of an archive, in memory, each as the manifest says."""

    def __init__(self, content: bytes, chapters: list[str]):
        names = {f"{name}.{kind}" for name in chapters for kind in ("ipynb", "json")}
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                self.files = self._read(archive)
            self.manifest = json.loads(self.files.pop(MANIFEST))
            hashes, ran = dict(self.manifest["sha256"]), dict(self.manifest["chapters"])
        except KeyError as error:
            raise OutputsError(f"the archive lacks {error}") from None
        except (zipfile.BadZipFile, ValueError, TypeError, NotImplementedError, EOFError) as error:
            raise OutputsError(f"this is no archive of outputs: {error}") from None
        for name, member in self.files.items():
            if hashlib.sha256(member).hexdigest() != hashes.get(name):
                raise OutputsError(f"{name} is not what the manifest of the archive says")
        # chapters that there are no longer are left alone
        self.files = {name: member for name, member in self.files.items() if name in names}
        self.ran = ran

    @staticmethod
    def _read(archive: zipfile.ZipFile) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        total = 0
        for info in archive.infolist():
            name = info.filename
            if name != MANIFEST and not re.fullmatch(r"[A-Za-z0-9_-]+\.(ipynb|json)", name):
                raise OutputsError(f"the archive holds {name!r}, which no archive of outputs has")
            if name in files:
                raise OutputsError(f"the archive holds {name!r} twice")
            with archive.open(info) as stream:
                files[name] = stream.read(FILE_LIMIT + 1)  # whatever size it claims
            total += len(files[name])
            if len(files[name]) > FILE_LIMIT or total > ARCHIVE_LIMIT:
                raise OutputsError(f"{name} in the archive is too large")
        return files

    def take(self, chapter, changed: Callable[[dict], str | None]) -> dict:
        """Fill in the outputs of a chapter; the report of its run.

        Raises
        ------
        OutputsError : why the chapter has to run here
        """
        try:
            report = _report(json.loads(self.files[f"{chapter.name}.json"]))
            text = self.files[f"{chapter.name}.ipynb"].decode("utf-8")
            ran = self.ran[chapter.name]
            report["ran"] = {key: _line(ran[key]) for key in ("date", "machine")}
        except KeyError:
            raise OutputsError("not in the archive") from None
        except (ValueError, TypeError) as error:
            raise OutputsError(f"its report is damaged: {error}") from None
        if report["key"] != chapter.key:
            raise OutputsError("the archive has other code")
        if reason := changed(report):
            raise OutputsError(reason)
        cells = [cell for cell in chapter.notebook.cells if cell.cell_type == "code"]
        try:
            executed = nbformat.reads(text, 4)
            nbformat.validate(executed)
        except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
            first = str(error).partition("\n")[0]
            raise OutputsError(f"its notebook is damaged: {first}") from None
        others = [cell for cell in executed.cells if cell.cell_type == "code"]
        if [cell.source for cell in cells] != [cell.source for cell in others]:
            raise OutputsError("the archive has other code")
        for cell in others:
            for output in cell.outputs:
                check_output(output)
        for cell, other in zip(cells, others, strict=True):
            cell.outputs, cell.execution_count = other.outputs, other.execution_count
        language = {"name": "python", "pygments_lexer": "ipython3"}
        chapter.notebook.metadata["language_info"] = nbformat.from_dict(language)
        return report


def _report(report: dict) -> dict:
    """The report, with fields of the types they have. ValueError: it has others."""
    numbers = {key: float(report[key]) for key in ("cpu_seconds", "wall_seconds", "peak_mb")}
    tables = {key: dict(report[key]) for key in ("files", "code", "versions", "assets")}
    for name in [*tables["files"], *tables["code"]]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"it names {name!r}")
    for used in tables["code"].values():
        if not all(isinstance(used[key], kind) for key, kind in _CODE.items()):
            raise ValueError("its digests of code")
    if "python" not in tables["versions"]:
        raise ValueError("its versions of packages")
    return tables | numbers | {"key": str(report["key"])}


_CODE = {"module": str, "called": dict, "lines": dict, "homes": dict}


def _line(text: str) -> str:
    if not isinstance(text, str) or not re.fullmatch(r"[\w .,:()@/+-]{1,120}", text):
        raise ValueError(f"{text!r} is no date or machine")
    return text


# --- what outputs may hold ----------------------------------------------------------------------


def check_output(output: NotebookNode) -> None:
    """Refuse what a chapter does not produce and a browser or the build might act on.

    Raises
    ------
    OutputsError : what it holds
    """
    kind = output.output_type
    if kind in ("stream", "error"):
        return  # shown as text
    if kind not in ("display_data", "execute_result"):
        raise OutputsError(f"an output of the type {kind!r}")
    allowed = {"scrapbook", "needs_background"}
    if extra := set(output.metadata) - allowed:
        raise OutputsError(f"an output with metadata {', '.join(sorted(extra))}")
    for mime, content in output.data.items():
        if mime in _JSON:
            _check_json(mime, content)
        elif not isinstance(content, str):
            raise OutputsError(f"{mime} that is no text")
        elif mime == "image/png":
            try:
                image = base64.b64decode(re.sub(r"\s", "", content), validate=True)
            except ValueError:
                image = b""
            if not image.startswith(b"\x89PNG\r\n\x1a\n"):
                raise OutputsError("a PNG that is none")
        elif mime in _MARKUP:
            _check_markup(mime, content)
        elif mime not in _TEXT:
            raise OutputsError(f"an output of the type {mime!r}")


_MEASURED = {
    **{"effect": float, "interval": list, "level": float, "seeds": int, "splits": int},
    **{"error": float, "components": dict | None, "unreliable": str},
}
_FIELDS = {
    TABLE: {"name": str, "csv": str},
    FINDING: {
        **{"claim": str, "setting": str, "unit": str, "kind": str, "chosen_after_looking": bool},
        **_MEASURED,
        **{"by_seed": list, "scores": list, "margin": float, "verdict": str},
    },
    METHOD: {
        **{"method": str, "setting": str, "control": str, "gain": float, "low": float},
        **{"high": float, "unit": str, "seeds": int, "cpu_seconds": float, "lines_of_code": int},
    },
}


def _check_json(mime: str, content: dict) -> None:
    """What goes into files of this checkout has the names and types that chapters write."""
    _check_fields(mime, content, _FIELDS[mime])
    if mime == TABLE and not re.fullmatch(r"[a-z0-9-]+", content["name"]):
        raise OutputsError(f"a table with the name {content['name']!r}")
    if mime == FINDING:
        if content["claim"] not in table()["claims"]:
            raise OutputsError(f"a finding on {content['claim']!r}, which nobody claims")
        _check_numbers(mime, "by_seed", content["by_seed"])
        for measured in (content, *content["scores"]):
            if measured is not content:
                _check_fields(mime, measured, _MEASURED)
            _check_numbers(mime, "interval", measured["interval"], 2)
            if parts := measured["components"]:
                _check_fields(mime, parts, dict.fromkeys(("seeds", "items", "splits", "df"), float))


def _check_fields(mime: str, content: object, fields: dict) -> None:
    if not isinstance(content, dict) or content.keys() != fields.keys():
        raise OutputsError(f"{mime} with other fields than {', '.join(fields)}")
    for name, kind in fields.items():
        if not isinstance(content[name], (int, float) if kind is float else kind):
            raise OutputsError(f"{mime} where {name} is {content[name]!r}")


def _check_numbers(mime: str, name: str, values: list, count: int | None = None) -> None:
    if any(type(value) is not float for value in values) or len(values) != (count or len(values)):
        raise OutputsError(f"{mime} where {name} is {values!r}")


class _Markup(HTMLParser):
    """Lets pass tables and drawings, in a form that no browser reads otherwise than this class."""

    def __init__(self, mime: str):
        super().__init__(convert_charrefs=False)
        self.mime = mime

    def refuse(self, what: str):
        raise OutputsError(f"{self.mime} with {what[:80]}")

    def handle_starttag(self, tag, attrs):
        if tag not in _TAGS:
            self.refuse(f"<{tag}>")
        for name, value in attrs:
            value = re.sub(r"[\s\x00-\x1f]", "", value or "").lower()
            if name.startswith("on") or name in ("srcdoc", "formaction", "ping"):
                self.refuse(f"the attribute {name}")
            if "<" in value or ">" in value:
                self.refuse(f"<{tag} {name}> that holds a tag")
            linked = tag == "a" and name == "href" and value.startswith("https://")
            local = value.startswith(("#", "data:image/png;"))
            local = local or bool(
                tag == "a" and re.fullmatch(r"(chapters/)?[a-z0-9-]+\.html", value)
            )
            if name in _ADDRESSES and not (local or linked):
                self.refuse(f"the address {value}")
            if name not in _NAMES:
                self.check_style(value)

    def handle_data(self, data):
        if re.search(r"<[a-z/!?]", data, re.IGNORECASE):
            self.refuse(data[data.index("<") :])
        if self.cdata_elem:
            self.check_style(data.lower())

    def handle_pi(self, data):
        if not data.startswith("xml version="):
            self.refuse(f"<?{data}>")

    def handle_decl(self, decl):
        if not decl.lower().startswith("doctype svg") or "[" in decl:
            self.refuse(f"<!{decl}>")

    def unknown_decl(self, data):
        self.refuse(f"<![{data}")

    def handle_comment(self, data):
        if re.search(r"[<>]|^-|-$|--|^\[", data):
            self.refuse("a comment that hides something")

    def check_style(self, css: str) -> None:
        if re.search(r"@import|expression\(|url\((?!['\"]?#)|image-set|\\", css):
            self.refuse("a style that loads or runs something")


def _check_markup(mime: str, content: str) -> None:
    parser = _Markup(mime)
    parser.feed(content)
    parser.close()
    if unfinished := re.search(r"<[a-z/!?][^>]*$", content, re.IGNORECASE):
        parser.refuse(unfinished[0])  # the page would go on inside it
    plain = re.sub(r"[\s\x00-\x1f]", "", html.unescape(content)).lower()
    if script := re.search(r"(java|vb)script:|data:(?!image/png)|\\(href|require|style)", plain):
        parser.refuse(f"the address {script[0]}")  # also for Markdown and MathJax


# --- the build ----------------------------------------------------------------------------------


def take(book, chapters: list, content: bytes, changed: Callable[[dict], str | None]) -> list:
    """Keep the outputs that an archive has for stale chapters; the chapters it had them for.

    Raises
    ------
    OutputsError : the archive as a whole is not to be used
    """
    archive = Archive(content, [chapter.name for chapter in book.chapters])
    taken = []
    for chapter in chapters:
        try:
            report = archive.take(chapter, changed)
            book.report_file(chapter).parent.mkdir(parents=True, exist_ok=True)
            book.keep(chapter, report)
            taken.append(chapter)
        except OutputsError as error:
            print(f"  {chapter.name} runs here: {error}", flush=True)
    print(f"Outputs of {len(taken)} of {len(chapters)} chapters are taken, not run here.")
    return taken


def findings(notebook: NotebookNode) -> dict[str, dict]:
    """Findings of an executed chapter by claim and setting."""
    return {
        f"{data['claim']}, {data['setting']}": data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if (data := output.get("data", {}).get(FINDING))
    }


def differences(was: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Findings that contradict the archive, by the rule of :mod:`tools.replicate`."""
    found = [f"{name}: only in the archive" for name in was.keys() - now.keys()]
    found += [f"{name}: not in the archive" for name in now.keys() - was.keys()]
    for name in sorted(was.keys() & now.keys()):
        said = replicate.judge(was[name], now[name])
        if said["color"] == "red":
            found.append(f"{name}: {'; '.join(said['reasons'])}")
    return found


def verify(book, taken: list, count: int, jobs: int) -> list[str]:
    """Run some of the chapters that were taken, and say what they find otherwise than the archive.

    What ran here stays, in place of what was taken.
    """
    chosen = random.SystemRandom().sample(taken, min(count, len(taken)))
    said = {chapter.name: findings(book.executed(chapter)) for chapter in chosen}
    print(f"To verify the archive: {', '.join(said)}", flush=True)
    problems = [str(error) for error in book.run(chosen, jobs)]
    for chapter in chosen:
        if book.last_run(chapter):
            now = findings(book.executed(chapter))
            problems += [f"{chapter.name}: {each}" for each in differences(said[chapter.name], now)]
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.outputs", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("_build/outputs.zip"))
    file = parser.parse_args().file
    try:
        pack(Book(Path.cwd()), file)
    except OutputsError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{file}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
