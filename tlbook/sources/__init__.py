"""Where data and models come from: ``sources.reviews("amazon")``, ``sources.load("minilm-l6")``.

The data sets of the book are read from verified assets on first use; nothing is loaded before.
"""

import importlib

#: The modules of this folder in which its public names live, as in :mod:`tlbook`.
HOMES = {
    "images": "Unlabeled apart_from digits emoji emoji_unlabeled",
    "pretrained": "classifier load",
    "printed": "letters",
    "texts": "DOMAINS bbc chinese_reviews reviews",
}
_HOME = {name: module for module, names in HOMES.items() for name in names.split()}
#: The names that were asked for.
asked: set[str] = set()


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tlbook.sources' has no attribute {name!r}")
    asked.add(name)
    return getattr(importlib.import_module(f"tlbook.sources.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
