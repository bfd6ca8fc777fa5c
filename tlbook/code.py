"""Read code as syntax, which does not change with a comment, a docstring or a line break.

A function here that reads source announces it to audit hooks (:func:`sys.addaudithook`). The event
is called ``tlbook.code`` and carries the file, the qualified name (empty for a module) and what is
wanted of it, ``"syntax"`` or ``"lines"``. This is how the build of the book learns what a result
depends on.
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
    """Hold the digests of a module's code, as hexadecimal digits.

    Attributes
    ----------
    module : str
        Digest of all that runs when the module is imported, which leaves out the bodies of
        functions.
    bodies : dict of str to str
        Digests of functions and methods by qualified name, with what is nested inside them.
    """

    module: str
    bodies: dict[str, str]


def digest(*parts: ModuleType | Callable) -> str:
    """Compute a short hash of code without its comments and docstrings.

    It depends on the minor version of Python, whose syntax trees may differ.

    Parameters
    ----------
    *parts : module, class or function
        The code to hash.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    OSError
        If the source of a part cannot be found.
    """
    return snapshot(*parts)()


def snapshot(*parts: ModuleType | Callable) -> Callable[[], str]:
    """Make a function that returns the digest of the code as it is now.

    A snapshot that is taken when a module is imported is of the code that was loaded, whatever is
    edited later. Only those who call the function depend on the code.

    Parameters
    ----------
    *parts : module, class or function
        The code to hash.

    Returns
    -------
    callable
        A function without arguments that returns the digest of :func:`digest`.

    Raises
    ------
    OSError
        If the source of a part cannot be found.
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
    """Count the lines of a function's or class's source that hold code.

    Comments, docstrings and blank lines do not count.

    Parameters
    ----------
    part : class or function
        The code to count.

    Returns
    -------
    int
        The number of lines.

    Raises
    ------
    OSError
        If the source cannot be found.
    """
    part = inspect.unwrap(part)
    source = _source(part)
    sys.audit("tlbook.code", inspect.getsourcefile(part), part.__qualname__, "lines")
    return lines_of_text(source)


def lines_of_text(source: str) -> int:
    """Count the lines of a text that hold code.

    Parameters
    ----------
    source : str
        Python source.

    Returns
    -------
    int
        The number of lines without comments, docstrings and blank lines.
    """
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
    """Compute the digests of a module's text.

    Parameters
    ----------
    source : str
        The text of a module.

    Returns
    -------
    Code
        The digests of the module and of its functions.

    Raises
    ------
    SyntaxError, ValueError
        If the text is not Python.
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

    The table is left out of :func:`parse`, so that a new name concerns only those who use it.

    Parameters
    ----------
    source : str
        The text of the package's ``__init__.py``.

    Returns
    -------
    dict of str to str
        Modules by public name. It is empty if there is no such table.
    """
    for node in ast.parse(source).body:
        if _says_homes(node):
            table = ast.literal_eval(node.value)
            return {name: module for module, names in table.items() for name in names.split()}
    return {}


def _says_homes(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOMES"


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Iterate over functions and classes with their qualified names.

    What a function holds inside is left out.

    Parameters
    ----------
    tree : ast.AST
        The syntax tree of a module, or a part of it.
    prefix : str, default ""
        Text before each name.

    Yields
    ------
    name : str
        Qualified name.
    node : ast.AST
        The function or class.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield prefix + node.name, node
        if not isinstance(node, _FUNCTIONS):
            inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            yield from definitions(node, inner)


def has_docstring(node: ast.AST) -> bool:
    """Return whether the first statement of a module, class or function is its docstring.

    Parameters
    ----------
    node : ast.AST
        The module, class or function.

    Returns
    -------
    bool
        Whether it has a docstring.
    """
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
