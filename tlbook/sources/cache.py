"""The cache folder: downloaded assets, arrays and trained weights that are expensive to compute.

Everything below :func:`folder` can be deleted at any time; it is fetched or computed again.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, TypeVar

import numpy as np
import pooch

T = TypeVar("T")


def folder() -> Path:
    """Return the cache folder: ``$TLBOOK_CACHE``, or the operating system's place for caches.

    Returns
    -------
    pathlib.Path
        The folder, which may not exist yet.
    """
    return Path(os.environ.get("TLBOOK_CACHE") or pooch.os_cache("tlbook"))


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Write a file or a folder whole or not at all, whatever ends the ``with`` block.

    Parameters
    ----------
    target : pathlib.Path
        Where it is to appear. Folders above it are made. A file there is replaced; a folder there
        is not, unless it is empty.

    Yields
    ------
    pathlib.Path
        Where to write: a path of the same name beside the target, where nothing is yet. It takes
        the target's place when the block ends without an error.

    Raises
    ------
    OSError
        The folder cannot be written, or a folder with content has taken the target's place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".part-{target.name}-") as part:
        path = Path(part, target.name)
        yield path
        path.replace(target)


def digest(*parts: str | bytes | np.ndarray) -> str:
    """Return a short hash of strings, bytes and arrays.

    Equal parts in equal order have equal hashes. Each part is hashed with its kind and length, so
    that ``("ab", "c")`` and ``("a", "bc")`` differ. Object arrays are hashed as their strings.

    Parameters
    ----------
    *parts : str, bytes or array
        What to hash.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            kind = f"{part.dtype}{part.shape}"
            strings = part.dtype == object or part.dtype.kind in "UT"
            # With its length before each text, since a text may hold any separator
            content = (
                _encode("".join(f"{len(text)}:{text}" for text in map(str, part.ravel())))
                if strings
                else np.ascontiguousarray(part).tobytes()
            )
        else:
            kind = type(part).__name__
            content = _encode(part) if isinstance(part, str) else part
        total.update(f"{kind}:{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()[:32]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a character must not make it fail


def array(kind: str, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array stored as ``folder()/kind/key.npy``, computed and stored on the first call.

    Parameters
    ----------
    kind : str
        Folder in the cache, such as ``"emoji"``.
    key : str
        Name of the file, such as a :func:`digest` of everything that decides the array.
    compute : callable
        Function without arguments that returns the array.

    Returns
    -------
    array
        The array, as computed or as stored.
    """
    return stored(
        f"{kind}/{key}.npy",
        compute,
        save=lambda stream, value: np.save(stream, value, allow_pickle=False),
        load=_load_array,
    )


def _load_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as stream:  # np.load would also take a ZIP, and give what is in it
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (SyntaxError, TokenError) as error:  # of a header that is no Python
        raise ValueError(f"{path} is damaged: {error}") from error


def stored(
    name: str,
    compute: Callable[[], T],
    *,
    save: Callable[[BinaryIO, T], object],
    load: Callable[[Path], T],
) -> T:
    """Return what the file ``folder()/name`` holds, computed and stored on the first call.

    The file appears whole or not at all, so it is safe for two processes to write it at once, or
    for one to be killed. Where nothing can be written (a read-only folder, a full disk), the result
    is still returned, with a warning that names the reason.

    Parameters
    ----------
    name : str
        Path of the file in the cache.
    compute : callable
        Function without arguments that returns the result.
    save : callable
        ``save(stream, result)``, which writes the result to a binary stream.
    load : callable
        ``load(path)``, which returns the result. A file is computed again where this raises
        ValueError, EOFError, OSError or MemoryError, and where anything but a file has this name.

    Returns
    -------
    object
        The result, as computed or as loaded.
    """
    path = folder() / name
    if path.is_file():  # of a pipe, for one, no end would come
        with suppress(ValueError, EOFError, OSError, MemoryError):
            return load(path)
    result = compute()
    try:
        with whole(path) as part, part.open("xb") as stream:
            save(stream, result)
    except OSError as error:
        warnings.warn(
            f"Computed, but not kept for next time: cannot write {path.parent} ({error}). "
            "Set TLBOOK_CACHE to a folder with room that you can write to.",
            stacklevel=3,
        )
    return result
