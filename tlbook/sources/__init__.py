"""Where data and models come from: ``sources.reviews("amazon")``, ``sources.load("minilm-l6")``.

The data sets of the book are read from verified assets on first use; nothing is loaded before.
"""

import importlib

_HOME = {
    "apart_from": "images",
    "bbc": "texts",
    "chinese_reviews": "texts",
    "classifier": "pretrained",
    "digits": "images",
    "DOMAINS": "texts",
    "emoji": "images",
    "emoji_unlabeled": "images",
    "letters": "printed",
    "load": "pretrained",
    "reviews": "texts",
    "Unlabeled": "images",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"tlbook.sources.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tlbook.sources' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
