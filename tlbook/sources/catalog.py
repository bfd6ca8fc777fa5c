"""The packaged models: what each is, what it was trained on, and which models it can replace."""

import difflib
import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """Describe a packaged model.

    Attributes
    ----------
    handle : str
        Name that loads it.
    asset : str
        The archive that holds it, as named in ``assets.toml``.
    kind : {"transformers", "torch", "savedmodel"}
        What loads it.
    modality : str
        What it takes, such as ``"image"``.
    trained_on : str
        Data it was trained on, in words.
    stands_in_for : tuple of str
        Parts of the names of hub models that it can replace.
    folder : str
        Folder of its files in the archive.
    build : str
        Key in :data:`tlbook.sources.ports.BUILDERS` of the function that makes its SavedModel.
    """

    handle: str
    asset: str
    kind: str
    modality: str
    trained_on: str
    stands_in_for: tuple[str, ...]
    folder: str = ""
    build: str = ""


@functools.cache
def packaged() -> dict[str, Model]:
    """Return the packaged models by handle.

    Returns
    -------
    dict of str to Model
        All models of ``models.toml``, in its order.
    """
    rows = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
    return {
        name: Model(handle=name, **{**row, "stands_in_for": tuple(row["stands_in_for"])})
        for name, row in rows.items()
    }


def alternative(handle: str) -> str | None:
    """Return the packaged model that is nearest to what a handle seems to name.

    Parameters
    ----------
    handle : str
        Name of a model, as a hub spells it.

    Returns
    -------
    str or None
        Handle of the packaged model; None where none is near.
    """
    name = handle.lower()
    for model in reversed(packaged().values()):  # the most specific names stand last
        if any(part in name for part in model.stands_in_for):
            return model.handle
    near = difflib.get_close_matches(name.rstrip("/").split("/")[-1], packaged(), n=1, cutoff=0.5)
    return near[0] if near else None
