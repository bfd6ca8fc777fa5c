"""The packaged models: what each is, what it was trained on, what it can take the place of."""

import difflib
import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """A packaged model: what it is, and what it was trained on."""

    handle: str
    asset: str  # the archive it is in
    kind: str  # what loads it: "transformers", "torch" or "savedmodel"
    modality: str
    trained_on: str
    stands_in_for: tuple[str, ...]  # parts of hub names that it can take the place of
    folder: str = ""  # of its files in the archive
    build: str = ""  # the function of tlbook.sources.ports that makes its SavedModel


@functools.cache
def packaged() -> dict[str, Model]:
    """The packaged models by handle."""
    rows = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
    return {
        name: Model(handle=name, **{**row, "stands_in_for": tuple(row["stands_in_for"])})
        for name, row in rows.items()
    }


def alternative(handle: str) -> str | None:
    """The packaged model that is nearest to what a handle seems to be."""
    name = handle.lower()
    for model in reversed(packaged().values()):  # the more special names stand last
        if any(part in name for part in model.stands_in_for):
            return model.handle
    near = difflib.get_close_matches(name.rstrip("/").split("/")[-1], packaged(), n=1, cutoff=0.5)
    return near[0] if near else None
