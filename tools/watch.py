"""Inside a chapter's kernel: what its run loaded, read and used.

The build calls :func:`start` before the first cell and :func:`report` after the last one.

Of ``tlbook``, what counts is the code that ran: all that a module does when it is imported, and
the bodies of the functions that were called. While these stay as they are, another run would take
the same path and reach no other body. To see which were called, modules are loaded with a mark at
the top of each function, here and in child processes: a byte in a file that all of them share.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import linecache
import mmap
import os
import re
import resource
import shutil
import sys
import tempfile
import textwrap
import time
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

#: The folder of the marks, for child processes
MARKS = "TLBOOK_WATCH"

_started = 0.0
_path: list[str] = []  # where modules were looked for before a library added places of its own
_modules: set[str] = set()  # the kernel's own, loaded before the first cell
_read: set[str] = set()
_written: set[str] = set()
_marks: dict[str, tuple["_Names", mmap.mmap]] = {}  # of modules loaded here, by file
_children_unseen = False  # a process was started that does not mark what it calls


def _load_code():
    """``tlbook.code`` under another name, so that a chapter's own import of it is seen."""
    file = Path(__file__).resolve().parents[1] / "tlbook" / "code.py"
    spec = importlib.util.spec_from_file_location("_watched_code", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code = _load_code()


def start() -> None:
    """Watch from here on which files are opened, and which modules and functions are used."""
    global _started
    _started = time.time()
    _path[:] = sys.path
    _modules.update(sys.modules)
    os.environ[MARKS] = tempfile.mkdtemp(prefix="tlbook-watch-")
    children = str(Path(__file__).resolve().with_name("children"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [children, os.environ.get("PYTHONPATH")])
    )
    follow()


def follow() -> None:
    """Mark what this process calls of ``tlbook``; child processes begin here."""
    sys.__tlbook_marks__ = _marks  # where also a module that is run as a script finds them
    sys.meta_path.insert(0, _Finder)
    sys.addaudithook(_note)
    linecache.getlines = _lines_anew(linecache.getlines)


# --- marks --------------------------------------------------------------------------------------


class _Names:
    """The places of a module's marks: whether its text was read, then each definition's two."""

    def __init__(self, file: str, names: list[str]):
        self.header = file.encode() + b"\n"
        self.names = list(dict.fromkeys(names))
        self.size = len(self.header) + 1 + 2 * len(self.names)

    @property
    def text(self) -> int:
        return len(self.header)

    def called(self, name: str) -> int:
        return len(self.header) + 1 + self.names.index(name)

    def counted(self, name: str) -> int:
        """Of a definition whose lines of code were counted."""
        return self.called(name) + len(self.names)

    def marked(self, content: bytes) -> tuple[bool, list[str], list[str]]:
        """Whether the text was read, and the names of what was called and of what was counted."""
        called = [name for name in self.names if content[self.called(name)]]
        return (
            bool(content[self.text]),
            called,
            [name for name in self.names if content[self.counted(name)]],
        )


class _Finder:
    """Finds the modules of ``tlbook`` where Python would, to load them with marks."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "tlbook":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        # always from the source: compiled files are of code without marks, and have to stay so
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.parse(data, path)
        definitions = list(code.definitions(tree))
        names = _Names(path, [name for name, _ in definitions])
        _marks[path] = names, _shared(names)
        for name, node in definitions:
            if not isinstance(node, ast.ClassDef):
                _insert(node, f"__called__[{names.called(name)}] = 1")
        _insert(tree, f"__called__ = __import__('sys').__tlbook_marks__[{path!r}][1]")
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


def _insert(node: ast.AST, statement: str) -> None:
    """Put a statement first, behind the docstring and imports from ``__future__``."""
    place = int(code.has_docstring(node))
    while place < len(node.body) and getattr(node.body[place], "module", "") == "__future__":
        place += 1
    near = node.body[min(place, len(node.body) - 1)] if node.body else node
    (new,) = ast.parse(statement).body
    for each in ast.walk(new):
        if hasattr(each, "lineno"):
            each.lineno = each.end_lineno = getattr(near, "lineno", 1)
    node.body.insert(place, new)


def _shared(names: _Names) -> mmap.mmap:
    """The bytes of a module's marks, the same in all processes, whichever comes first."""
    file = Path(os.environ[MARKS], hashlib.sha256(names.header).hexdigest())
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, names.header, 0)
        if os.fstat(handle).st_size < names.size:
            os.ftruncate(handle, names.size)
        return mmap.mmap(handle, 0)
    finally:
        os.close(handle)


# --- what is noted ------------------------------------------------------------------------------


def _note(event: str, arguments: tuple) -> None:
    global _children_unseen
    if event == "open":
        if isinstance(arguments[0], str):
            _note_opened(*arguments)
    elif event == "tlbook.code":
        _note_read(*arguments)
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
        inherited = os.environ if arguments[-1] is None else arguments[-1]
        seen = MARKS in inherited or MARKS.encode() in inherited
        if not seen or any(option in ("-I", "-E", "-S") for option in arguments[1]):
            _children_unseen = True


def _note_opened(path: str, mode: str | None, flags: int) -> None:
    writes = any(sign in (mode or "") for sign in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
    path = str(Path.cwd() / path)
    if writes:
        _written.add(path)
    elif path.endswith(".py") and _by_us(sys._getframe(2)):
        return
    else:
        _read.add(path)
        if path in _marks:  # a traceback's lines, or a library that compiles functions anew
            names, marks = _marks[path]
            marks[names.text] = 1


def _by_us(frame) -> bool:
    """Whether this file reads a source, or ``tlbook.code``, which says what for.

    Or torch, which keeps for its errors the lines of who imports it.
    """
    while frame:
        here = frame.f_code.co_filename == __file__ and frame.f_code.co_name != "getlines"
        if here or frame.f_globals.get("__name__") in ("tlbook.code", "torch.cuda"):
            return True
        frame = frame.f_back
    return False


def _lines_anew(get_lines):
    """``linecache.getlines`` that keeps no source with marks, so that each reading is seen."""

    def getlines(filename, module_globals=None):
        try:
            return get_lines(filename, module_globals)
        finally:
            if filename in _marks:
                linecache.cache.pop(filename, None)

    return getlines


def _note_read(path: str, name: str, what: str) -> None:
    if path not in _marks:
        return
    names, marks = _marks[path]
    name = name.partition(".<locals>")[0]
    for each in names.names:
        if what == "lines" and each == name:
            marks[names.counted(each)] = 1
        elif what == "syntax" and f"{each}.".startswith(f"{name}." if name else ""):
            marks[names.called(each)] = 1


# --- what is said of it -------------------------------------------------------------------------


def python_version() -> str:
    """The version of Python without the patch level: ``"3.11"``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits; ``"missing"`` where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


def report(root: str) -> str:
    """What the outputs depend on and what they cost, as a JSON object.

    ``files``: project files loaded as modules or read, with their SHA-256; ``code``: of modules of
    ``tlbook``, see :func:`used_code`; ``versions``: installed packages loaded; ``assets``: assets
    used, with the SHA-256 of the archive; ``cpu_seconds`` and ``peak_mb`` (10^6 bytes) of the
    kernel and its child processes, imports included.
    """
    loaded = {name: module for name, module in sys.modules.items() if name not in _modules}
    sources = {getattr(module, "__file__", None) for module in loaded.values()} - {None}
    whole, used = _used(Path(root))
    files = {}
    for path in sorted((((sources - _marks.keys()) | _read) - _written) | whole):
        inside = _inside(Path(root), Path(path))
        if inside:
            files[inside] = _digest_as_read(Path(path))
    assets = dict(getattr(loaded.get("tlbook.sources.assets"), "used", {}))
    if assets:  # a change in the table concerns the pages that show it, or that used the asset
        files.pop("tlbook/sources/assets.toml", None)
    owners = importlib.metadata.packages_distributions()
    packages = {owner for name in loaded for owner in owners.get(name.partition(".")[0], ())}
    installed = {
        found.name: found.version for found in importlib.metadata.distributions(path=_path)
    }
    versions = {
        name: installed[name] for name in sorted(packages - {"tlbook"}) if name in installed
    }
    versions["python"] = python_version()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, else KiB
    return json.dumps(
        {
            "files": files,
            "code": {name: each for name, each in used.items() if name not in files},
            "versions": versions,
            "assets": assets,
            "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages),
            "peak_mb": sum(usage.ru_maxrss for usage in usages) * unit / 1e6,
        }
    )


def _used(root: Path) -> tuple[set[str], dict[str, dict]]:
    """Files of ``tlbook`` that count whole, and the code that was used of the others."""
    whole, used = set(), {}
    if _children_unseen:
        whole.update(map(str, (root / "tlbook").rglob("*.py")))
    documented = _cells_read_docstrings()
    for file in sorted(Path(os.environ[MARKS]).iterdir()):
        content = file.read_bytes()
        path = Path(os.fsdecode(content.partition(b"\n")[0]))
        inside = _inside(root, path)
        if inside is None:
            continue
        try:
            if path.stat().st_mtime >= _started:  # nobody knows what was loaded
                raise ValueError
            source = path.read_text("utf-8")
            names = _Names(str(path), [name for name, _ in code.definitions(ast.parse(source))])
            text, called, counted = names.marked(content)
        except (OSError, SyntaxError, ValueError, IndexError):
            text, called, counted = True, [], []
        if text or documented:
            whole.add(str(path))
        else:
            module = inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            asked = getattr(sys.modules.get(module), "asked", ())
            used[inside] = used_code(source, called, counted, sorted(asked))
    shutil.rmtree(os.environ[MARKS], ignore_errors=True)
    return whole, used


def used_code(source: str, called: list[str], counted: list[str], asked: list[str]) -> dict:
    """What a run depends on of a module: digests that leave comments and docstrings out.

    ``module``: what runs when it is imported; ``called``: the bodies of functions, by qualified
    name; ``lines``: the lines of code of definitions that the chapter counted; ``homes``: of a
    front door, where the names live that the chapter asked for. A name that is gone is missing.

    Raises
    ------
    SyntaxError, ValueError : the text is no Python
    """
    parsed = code.parse(source)
    lines = {}
    if counted:
        split = source.splitlines(keepends=True)
        for name, node in code.definitions(ast.parse(source)):
            if name in counted and name not in lines:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                text = "".join(split[first - 1 : node.end_lineno])
                lines[name] = code.lines_of_text(textwrap.dedent(text))
    return {
        "module": parsed.module,
        "called": {name: parsed.bodies[name] for name in called if name in parsed.bodies},
        "lines": lines,
        "homes": {name: home for name, home in code.homes(source).items() if name in asked},
    }


def _cells_read_docstrings() -> bool:
    cells = getattr(sys.modules["__main__"], "In", [])
    return bool(re.search(r"__doc__|\bhelp\(|getdoc|pinfo", "\n".join(cells)))


def _inside(root: Path, path: Path) -> str | None:
    """The path below the root, or None for what no chapter's outputs depend on."""
    try:
        parts = path.resolve().relative_to(root.resolve()).parts
    except ValueError:
        return None
    if path.is_relative_to(sys.prefix) or not path.is_file() or "__pycache__" in parts:
        return None
    if parts[0][0] in "._" or parts[0] == "tools" or parts[0].endswith(".egg-info"):
        return None
    return "/".join(parts)


def _digest_as_read(path: Path) -> str:
    """The digest; of a file that changed during the run nobody knows what was read."""
    return digest(path) if path.stat().st_mtime < _started else "changed during the run"
