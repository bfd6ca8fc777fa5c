"""The reference of the package: every public name, from code that is read and not imported."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools import api

ROOT = Path(__file__).parents[1]
PACKAGE = {
    "tlbook/__init__.py": 'HOMES = {"room.things": "make Thing", "room": "tools"}\n',
    "tlbook/room/__init__.py": '"""A room."""\n',
    "tlbook/room/things.py": '''
        """Make things, with :func:`make`, :func:`_hidden` and :class:`torch.nn.Module`."""
        #: How many.
        COUNT = 3
        def make(x: int, *, size: str = "a") -> int:
            """Make a :class:`Thing`, see :meth:`Thing.use`.

            Parameters
            ----------
            x : (n,) numpy.ndarray of int
                What it is made of.

            Raises
            ------
            ValueError
                It is empty.
            """
        def _hidden(): "Not for readers."
        def idle(): "Nobody uses it."
        class Thing:
            """A thing."""
            def __init__(self, a, b: int = 2): ...
            def use(self, much: bool = True):
                """Use it."""
            @property
            def color(self):
                """Its color."""
            def undescribed(self): ...
        ''',
    "tlbook/room/tools.py": "def saw(wood):\n    'Saw wood.'\n",
    "tlbook/methods/__init__.py": "",
    "tlbook/methods/one.py": "def method():\n    'A method.'\nSIZE = 1\n",
    "_config.yml": "title: A book\n",
    "_toc.yml": "format: jb-book\nroot: intro\nchapters:\n- file: chapters/b\n- file: chapters/a\n",
    "chapters/b.md": """
        # B
        ```{code-cell} ipython3
        :tags: [hide-input]
        from tlbook import make, tools
        make(1)
        tools.saw(2)
        ```
        """,
    "chapters/a.md": """
        # A
        ```{code-cell} ipython3
        import tlbook
        from tlbook.room.things import COUNT
        tlbook.make(COUNT)
        ```
        """,
}


@pytest.fixture
def package(tmp_path):
    for name, text in PACKAGE.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip(), "utf-8")
    for name in ("a", "b"):  # the table of contents leaves the ending out
        (tmp_path / "chapters" / f"{name}.md").rename(tmp_path / "chapters" / name)
    return api.Package(tmp_path)


def lines(package, *rooms, pages=("chapters/a", "chapters/b")) -> str:
    return "\n".join(line for line, _ in api.package_lines(package, [*rooms], pages))


def test_public_is_what_is_exported_used_or_a_method(package):
    assert package.public == {
        "tlbook.room.things.make": "tlbook.make",
        "tlbook.room.things.Thing": "tlbook.Thing",
        "tlbook.room.things.COUNT": "tlbook.room.things.COUNT",
        "tlbook.room.tools.saw": "tlbook.tools.saw",
        "tlbook.methods.one.method": "tlbook.methods.one.method",
    }


def test_a_cell_that_is_seen_explains_rather_than_a_folded_one(package):
    assert package.explained == {
        "tlbook.room.things.make": "a",  # b comes first, and is folded
        "tlbook.room.things.COUNT": "a",
        "tlbook.room.tools.saw": "b",
    }


def test_a_name_has_its_call_its_description_and_its_chapter(package):
    text = lines(package, "tlbook.room")
    assert ".. py:function:: make(x, *, size='a')\n   :module: tlbook\n" in text
    assert "   :canonical: tlbook.room.things.make" in text
    assert "**x** (*(n,) numpy.ndarray of int*) -- What it is made of." in text
    assert "**ValueError** -- It is empty." in text
    assert "   Explained in :doc:`/chapters/a`." in text
    assert "Explained in" not in lines(package, "tlbook.room", pages=())
    assert ".. py:data:: COUNT\n   :module: tlbook.room.things\n\n   How many." in text
    assert ".. py:class:: Thing(a, b=2)" in text
    assert "   .. py:method:: use(much=True)\n\n      Use it." in text
    assert "   .. py:property:: color" in text
    assert not re.search("undescribed|idle|hidden\\(", text)


def test_references_lead_to_a_name_or_are_literals(package, caplog):
    text = lines(package, "tlbook.room")
    assert "with :py:obj:`make <tlbook.make>`, ``_hidden`` and ``torch.nn.Module``." in text
    assert ":py:obj:`Thing <tlbook.Thing>`, see :py:obj:`Thing.use <tlbook.Thing.use>`." in text
    write = api.Writer(package, package.modules["tlbook.room.things"], set())
    assert write.prose("See :func:`maek`.", "") == ["See ``maek``."]
    assert "nothing is called maek" in caplog.text


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("def f(a: int, /, b=[1], *c, d: str | None = None, **e) -> int: ...",
         "(a, /, b=[1], *c, d=None, **e)"),
        ("@dataclass\nclass C:\n    a: int\n    b: dict = field(default_factory=dict)\n"
         "    c: int = field(init=False)\n    d: int = field(default=2)", "(a, b=dict(), d=2)"),
        ("class C(NamedTuple):\n    a: int\n    b: int = 3", "(a, b=3)"),
        ("class C(Base): ...", ""),
        ("A = 1", ""),
    ],
)  # fmt: skip
def test_calls_have_no_types(code, shown):
    assert api.signature(api.ast.parse(code).body[0]) == shown


@pytest.fixture(scope="module")
def real():
    return api.Package(ROOT)


def test_every_public_name_of_tlbook_is_on_one_page(real):
    pages = [page.read_text("utf-8") for page in (ROOT / "api").glob("*.md")]
    rooms = [room for text in pages for room in re.findall(r"\.\. api:: (.*)", text)]
    shown = []
    for room in rooms:
        text = lines(real, *room.split())
        found = re.findall(r"^\.\. py:\w+:: (\w+).*\n   :module: (.*)$", text, re.MULTILINE)
        shown += [f"{module}.{name}" for name, module in found]
    assert sorted(shown) == sorted(real.public.values())
    fronts = {real.home(name) for name in real.exported} - real.modules.keys()
    assert fronts <= real.public.keys() and None not in fronts


def test_every_public_name_says_what_it_is_for(real):
    silent = [
        home for home in real.public if not real.split(home)[0].docstring(home.rpartition(".")[2])
    ]
    assert silent == []


def test_the_reference_costs_neither_torch_nor_tensorflow():
    code = (
        "import sys; from pathlib import Path; from tools.api import Package, package_lines;"
        "p = Package(Path()); list(package_lines(p, ['tlbook'], []));"
        "print({'torch', 'tensorflow', 'sklearn', 'tlbook'} & sys.modules.keys())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"
