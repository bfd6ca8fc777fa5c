"""Companion package of the book *Transfer Learning, Measured*.

What a chapter or a script of your own needs is named here, and loaded when it is first used::

    from tlbook import compare, data, features, load, sources

So ``import tlbook`` stays cheap, and a name stays where it is when its module moves.
"""

import importlib
import os
import warnings

__version__ = "0.1.0"

# Threads that wait for work spin, and on a busy machine take the processor from those that have
# some. torch reads this when it is loaded, so notebooks import tlbook first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Without ipywidgets, tqdm warns in every notebook that its bars are plain text: that is intended.
warnings.filterwarnings("ignore", message="IProgress not found")

#: The modules below ``tlbook`` in which the public names live. A chapter depends on the homes of
#: the names that it asks for, and not on the others (see :mod:`tlbook.code`).
HOMES = {
    "errors": "TrainingError",
    "data": "Dataset Split concat distinct labeled sample split",
    "sources.pretrained": "classifier load",
    "learning.batches": "Batches Pairs tokenized",
    "learning.features": "features mean_pool preprocess",
    "learning.freezing": "ALL audit_frozen describe eval_mode head_only last_layers freeze "
    "train_mode unfreeze",
    "learning.heads": "linear_head",
    "learning.loop": "fit predict steps train_model warmup_linear",
    "learning.losses": "classification",
    "learning.prefix": "frozen_prefix",
    "learning.transformer": "FrozenFeatures",
    "evidence.claims": "finding keep_table method record say",
    "evidence.comparison": "compare estimator_arm",
    "evidence.balanced": "balanced_accuracy",
    "evidence.effects": "Effect",
    "evidence.episodes": "episode_accuracy",
    "evidence.recording": "recorded",
    "evidence.wording": "in_words",
    "advisor.advice": "advise",
    "evidence": "claims guide plots pooling",
    "sources": "assets hubs",
}
_HOME = {name: module for module, names in HOMES.items() for name in names.split()}
#: The names that were asked for.
asked: set[str] = set()


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tlbook' has no attribute {name!r}")
    asked.add(name)
    home = importlib.import_module(f"tlbook.{_HOME[name]}")
    if hasattr(home, name):
        return getattr(home, name)
    return importlib.import_module(f"{home.__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
