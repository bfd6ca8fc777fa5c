"""Writes the reference of the package from its docstrings (Sphinx).

``.. api:: tlbook.data`` shows the public names of a room: what ``tlbook`` and its rooms export, the
definitions of the method modules, and what else a chapter uses. Code is read and never imported, so
a page costs no torch and no TensorFlow. Each name links to the chapter that explains it: the first
that uses it in a cell which readers see, or else in a folded one.
"""

import ast
import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import NumpyDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from tools.source import Book, directive, walk

#: Modules whose definitions are public whether or not a chapter uses them.
WHOLE = "tlbook.methods."
#: Cells that readers do not see, or see when they open them.
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
#: Types stand as they are written: most are no Python names, and numpy's are not in this book.
NUMPYDOC = Config(
    napoleon_use_param=False,
    napoleon_use_rtype=False,
    napoleon_custom_sections=[(name, "params_style") for name in ("Attributes", "Raises")],
)
#: Packages whose names a docstring may give.
OUTSIDE = {"torch", "sklearn", "numpy", "pandas", "keras", "tf", "transformers"}
ROLE = re.compile(r":(?:func|meth|class|mod|data|attr|exc):`(~?)([\w.]+)`")
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign

log = logging.getLogger(__name__)


@dataclass
class Module:
    """A module as its source says it: its definitions, and from where it imports names."""

    name: str
    path: Path
    text: str
    tree: ast.Module = field(init=False)
    defined: dict[str, Definition] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.tree = ast.parse(self.text)
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.defined[node.targets[0].id] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self.defined[node.target.id] = node
        self.imported = imports(self.tree)

    def comment(self, name: str) -> str:
        """What ``#:`` says of a constant, behind it or in the lines above."""
        lines = self.text.splitlines()[: self.defined[name].lineno]
        said = [lines.pop().partition("  #:")[2].strip()]
        while lines and lines[-1].startswith("#:"):
            said.insert(0, lines.pop()[2:].strip())
        return "\n".join(filter(None, said))

    def docstring(self, name: str) -> str:
        node = self.defined[name]
        if is_constant(node):
            return self.comment(name)
        return ast.get_docstring(node) or ""


def is_constant(node: Definition | None) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign)


def imports(tree: ast.AST) -> dict[str, str]:
    """The dotted names for which the names stand that a syntax tree imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            for each in node.names:
                found[each.asname or each.name.partition(".")[0]] = (
                    each.name if each.asname else each.name.partition(".")[0]
                )
    return found


class Package:
    """The package in a folder, its public names, and where the book explains them.

    Parameters
    ----------
    root : pathlib.Path
        The folder of the book.
    """

    def __init__(self, root: Path):
        self.book = Book(root)
        self.modules = {}
        for path in sorted((root / "tlbook").rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            self.modules[name] = Module(name, path, path.read_text("utf-8"))

    @cached_property
    def exported(self) -> dict[str, str]:
        """The names in front of the package and of its rooms, and where they are defined."""
        found = {}
        for front, module in self.modules.items():
            if "HOMES" in module.defined:
                homes = ast.literal_eval(module.defined["HOMES"].value)
                for home, names in homes.items():
                    found |= {f"{front}.{name}": f"{front}.{home}.{name}" for name in names.split()}
            if "__all__" in module.defined:
                names = ast.literal_eval(module.defined["__all__"].value)
                found |= {f"{front}.{name}": module.imported[name] for name in names}
        return found

    def home(self, name: str) -> str | None:
        """The module or definition, by its full name, for which a dotted name stands, if any."""
        for _ in range(5):  # names may pass through several modules
            for front, place in self.exported.items():
                if name == front or name.startswith(f"{front}."):
                    name = place + name[len(front) :]
                    break
            if name in self.modules:
                return name
            module, rest = self.split(name)
            if module is None or not rest:
                return None
            first, *others = rest.split(".")
            if first in module.defined:
                return f"{module.name}.{first}"
            if first not in module.imported:
                return None
            name = ".".join([module.imported[first], *others])
        return None

    def split(self, name: str) -> tuple[Module | None, str]:
        """The module of a dotted name, and the rest of the name."""
        module, rest = name, []
        while module and module not in self.modules:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
        return self.modules.get(module), ".".join(rest)

    def cells(self) -> Iterator[tuple[str, bool, ast.Module]]:
        """The cells of the chapters in their order: chapter, is it folded, its syntax tree."""
        for page in self.book.toc:
            if page.parent.name != "chapters" or not page.exists():
                continue
            for token, line in walk(self.book.parser, page.read_text("utf-8")):
                if (found := directive(token, line)) and found.name == "code-cell":
                    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", found.body, flags=re.MULTILINE)
                    folded = bool(FOLDED & set(found.options.get("tags", [])))
                    try:
                        yield page.stem, folded, ast.parse(source)
                    except SyntaxError:  # a cell magic
                        continue

    @cached_property
    def explained(self) -> dict[str, str]:
        """The chapter that explains a definition."""
        known: dict[str, dict[str, str]] = {}  # what each chapter has imported
        seen: dict[bool, dict[str, str]] = {False: {}, True: {}}
        for chapter, folded, tree in self.cells():
            names = known.setdefault(chapter, {})
            names |= imports(tree)
            for home in self.mentions(tree, names):
                seen[folded].setdefault(home, chapter)
        return seen[True] | seen[False]

    def mentions(self, tree: ast.AST, known: dict[str, str]) -> Iterable[str]:
        """The definitions of the package that a cell names."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute):
                first, *others = ast.unparse(node).split(".")
                home = self.home(".".join([known.get(first, ""), *others]))
                if home and home not in self.modules:
                    yield home

    @cached_property
    def public(self) -> dict[str, str]:
        """The public definitions, and the names under which readers find them."""
        fronts = sorted(self.exported, key=len, reverse=True)  # the shortest name wins
        places = {home: front for front in fronts if (home := self.home(front))}
        wide = [name for name in self.modules if name in places or name.startswith(WHOLE)]
        homes = [*places, *self.explained]
        for name in wide:
            defined = self.modules[name].defined.items()
            homes += [f"{name}.{each}" for each, node in defined if not is_constant(node)]
        public = {}
        for home in homes:
            module, name = self.split(home)
            described = module.docstring(name) if is_constant(module.defined.get(name)) else True
            if name and not name.startswith("_") and described:
                front = places.get(home, home)
                if module.name in places:  # from tlbook import guide
                    front = f"{places[module.name]}.{name}"
                elif module.name.count(".") == 1:  # a room that is a module: data.split
                    front = home
                public[home] = front
        return public

    def target(self, module: Module, inside: str, name: str) -> str | None:
        """The name on these pages of what a role in a docstring means; None: it is on none."""
        first, _, rest = name.partition(".")
        tried = [f"{module.name}.{inside}.{name}"] if inside else []
        tried += [f"{module.name}.{name}", name, f"{module.imported.get(first, '')}.{rest}"]
        for each in tried:
            home = self.home(each.strip("."))
            if home in self.public:
                member = self.split(each)[1].split(".")[1:]
                if not member or member[0] in members(self.definition(home)):
                    return ".".join([self.public[home], *member])
        return None

    def definition(self, home: str) -> Definition:
        module, name = self.split(home)
        return module.defined[name]

    @cached_property
    def words(self) -> set[str]:
        """Every name that stands in the code, to tell a private name from a mistyped one."""
        found = {part for name in self.modules for part in name.split(".")}
        for module in self.modules.values():
            found |= module.imported.keys() | module.defined.keys()
            for node in ast.walk(module.tree):
                found |= {getattr(node, key, None) for key in ("name", "attr", "arg", "id")}
        return found


@lru_cache(maxsize=1)
def read(root: Path) -> Package:
    """The package, which the pages of one build share."""
    return Package(root)


def members(node: Definition) -> dict[str, ast.FunctionDef]:
    """The public methods and properties that a class defines and describes."""
    return {
        each.name: each
        for each in getattr(node, "body", [])
        if isinstance(each, ast.FunctionDef)
        and not each.name.startswith("_")
        and ast.get_docstring(each)
    }


def signature(node: Definition, method: bool = False) -> str:
    """What is passed in a call, without types, which the descriptions give."""
    if isinstance(node, ast.ClassDef):
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                return signature(each, method=True)
        made = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
        if "dataclass" not in made and "NamedTuple" not in made:
            return ""
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        return f"({', '.join(filter(None, map(passed, fields)))})"
    if not isinstance(node, ast.FunctionDef):
        return ""
    arguments = copy.deepcopy(node.args)
    for each in ast.walk(arguments):
        if isinstance(each, ast.arg):
            each.annotation = None
    first = arguments.posonlyargs or arguments.args
    static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
    if method and not static:
        del first[0]
    return f"({ast.unparse(arguments)})"


def passed(node: ast.AnnAssign) -> str:
    """A field of a data class as an argument, empty for one that is not passed."""
    name, value = ast.unparse(node.target), node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        options = {each.arg: each.value for each in value.keywords}
        if ast.unparse(options.get("init", ast.Constant(True))) == "False":
            return ""
        if "default_factory" in options:
            return f"{name}={ast.unparse(options['default_factory'])}()"
        value = options.get("default")
    return name if value is None else f"{name}={ast.unparse(value)}"


class Reference(SphinxDirective):
    """``.. api:: tlbook.data ...``: the public names of modules and of what lies below them."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        package = read(Path(self.env.srcdir))
        for page in (*(each.path for each in package.modules.values()), *package.book.chapters):
            self.env.note_dependency(str(page))
        lines = StringList()
        for text, source in package_lines(package, self.arguments[0].split(), self.env.found_docs):
            lines.append(text, source)
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, lines, section)
        return section.children


def package_lines(
    package: Package, rooms: list[str], pages: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """The reference of some modules as reStructuredText, each line with its source."""
    for name, module in package.modules.items():
        if not any(name == room or name.startswith(f"{room}.") for room in rooms):
            continue
        homes = [f"{name}.{each}" for each in module.defined if f"{name}.{each}" in package.public]
        if homes:
            write = Writer(package, module, set(pages))
            source = f"docstring of {name}"
            yield from ((line, source) for line in write.heading())
            for home in homes:
                yield from ((line, f"docstring of {home}") for line in write.definition(home))


class Writer:
    """Writes a module's public names as reStructuredText."""

    def __init__(self, package: Package, module: Module, pages: set[str]):
        self.package, self.module, self.pages = package, module, pages

    def heading(self) -> list[str]:
        title = self.module.name
        text = self.prose(ast.get_docstring(self.module.tree) or "", "")
        return [title, "-" * len(title), "", f".. py:module:: {title}", "", *text, ""]

    def definition(self, home: str) -> list[str]:
        name = home.rpartition(".")[2]
        node, shown = self.package.definition(home), self.package.public[home]
        kind = {ast.FunctionDef: "function", ast.ClassDef: "class"}.get(type(node), "data")
        module, _, short = shown.rpartition(".")
        lines = [f".. py:{kind}:: {short}{signature(node)}", f"   :module: {module}"]
        if shown != home:
            lines.append(f"   :canonical: {home}")
        body = self.prose(self.module.docstring(name), name)
        page = f"chapters/{self.package.explained.get(home)}"
        if page in self.pages:
            body += ["", f"Explained in :doc:`/{page}`.", ""]
        for member, each in members(node).items():
            body += ["", *self.member(name, member, each)]
        return [*lines, "", *indented(body), ""]

    def member(self, name: str, member: str, node: ast.FunctionDef) -> list[str]:
        decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
        if decorators & {"property", "cached_property"}:
            head = [f".. py:property:: {member}"]
        else:
            head = [f".. py:method:: {member}{signature(node, method=True)}"]
            head += [
                f"   :{kind}:" for kind in ("classmethod", "staticmethod") if kind in decorators
            ]
        return [*head, "", *indented(self.prose(ast.get_docstring(node), name)), ""]

    def prose(self, docstring: str, inside: str) -> list[str]:
        """A docstring in reStructuredText; references to what is on no page become literals."""

        def reference(found: re.Match) -> str:
            short, name = found.groups()
            if target := self.package.target(self.module, inside, name):
                said = target if name.startswith("tlbook.") else name
                said = said.rpartition(".")[2] if short else said
                return f":py:obj:`{said} <{target}>`"
            outside = name.partition(".")[0] in OUTSIDE
            if not outside and name.rpartition(".")[2] not in self.package.words:
                log.warning("%s: nothing is called %s", self.module.name, name)
            return f"``{name}``"

        text = ROLE.sub(reference, docstring)
        return str(NumpyDocstring(text, NUMPYDOC)).splitlines()


def indented(lines: list[str]) -> list[str]:
    return [f"   {line}".rstrip() for line in lines]


def setup(app) -> dict:
    app.add_directive("api", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
