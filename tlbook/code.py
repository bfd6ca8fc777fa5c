"""Code as syntax: what does not change with a comment, a docstring or a line break.

Whoever reads source here announces it to audit hooks (:func:`sys.addaudithook`) by the event
``tlbook.code`` with the file, the qualified name (empty for a module) and what is wanted of it,
``"syntax"`` or ``"lines"``. The build of the book learns so on what a result depends.
"""

import ast
import hashlib
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


class Code(NamedTuple):
    """The digests of a module's code, as hexadecimal digits."""

    module: str  # all that runs when the module is imported: no bodies of functions
    bodies: dict[str, str]  # of functions and methods by qualified name, with what is nested inside


def digest(*parts: ModuleType | Callable) -> str:
    """A short hash of modules', classes' and functions' code without comments and docstrings.

    It depends on the minor version of Python, whose syntax trees may differ.

    Raises
    ------
    OSError : a part's source cannot be found
    """
    return snapshot(*parts)()


def snapshot(*parts: ModuleType | Callable) -> Callable[[], str]:
    """A function that returns the digest of the code as it is now.

    Taken when a module is imported, it is of the code that was loaded, whatever is edited later.
    Only who calls it depends on the code.
    """
    trees, read = [], []
    for part in map(inspect.unwrap, parts):
        module = inspect.ismodule(part)
        source = Path(part.__file__).read_text("utf-8") if module else _source(part)
        trees.append(ast.dump(_bare(source)))
        read.append((inspect.getsourcefile(part), getattr(part, "__qualname__", "")))
    found = _hash("\n".join(trees))[:32]

    def announced() -> str:
        for file, name in read:
            sys.audit("tlbook.code", file, name, "syntax")
        return found

    return announced


def lines_of_code(part: Callable) -> int:
    """Lines of a function's or class's source that hold code: no comments, docstrings, blanks.

    Raises
    ------
    OSError : the source cannot be found
    """
    part = inspect.unwrap(part)
    source = _source(part)
    sys.audit("tlbook.code", inspect.getsourcefile(part), part.__qualname__, "lines")
    return lines_of_text(source)


def lines_of_text(source: str) -> int:
    """Lines of a text that hold code."""
    found = set()
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in ignored | {tokenize.ENDMARKER}:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            found -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(found)


@lru_cache(maxsize=256)
def parse(source: str) -> Code:
    """The digests of a module's text.

    Raises
    ------
    SyntaxError, ValueError : the text is no Python
    """
    tree = _bare(source)
    tree.body = [node for node in tree.body if not _says_homes(node)]
    bodies: dict[str, list[str]] = {}
    for name, node in definitions(tree):
        if isinstance(node, _FUNCTIONS):
            # several where a branch chooses, or for the getter and the setter of a property
            bodies.setdefault(name, []).append(ast.dump(ast.Module(node.body, [])))
            node.body = [ast.Pass()]
    return Code(
        _hash(ast.dump(tree)), {name: _hash("\n".join(each)) for name, each in bodies.items()}
    )


def homes(source: str) -> dict[str, str]:
    """Return the home of each public name, as the table ``HOMES`` of a package's front door says.

    The table is left out of :func:`parse`, so that a new name concerns nobody who does not use it.
    """
    for node in ast.parse(source).body:
        if _says_homes(node):
            table = ast.literal_eval(node.value)
            return {name: module for module, names in table.items() for name in names.split()}
    return {}


def _says_homes(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOMES"


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes with their qualified names; of what functions hold, nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield prefix + node.name, node
        if not isinstance(node, _FUNCTIONS):
            inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            yield from definitions(node, inner)


def has_docstring(node: ast.AST) -> bool:
    """Whether the first statement of a module, class or function is its docstring."""
    first = node.body[0] if node.body else None
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _bare(source: str) -> ast.Module:
    """The syntax tree without docstrings, unless something in the text reads them."""
    tree = ast.parse(source)
    if "__doc__" not in source:
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and has_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _source(part: Callable) -> str:
    return textwrap.dedent(inspect.getsource(part))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
