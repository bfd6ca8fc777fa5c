"""Find the files of a pretrained model: packaged, in a local folder, or on one of two hubs.

A handle is tried in this order:

- a packaged name, such as "minilm-l6"; ``models.toml`` lists them all;
- a local folder;
- an address of TensorFlow Hub or of Kaggle Models, "https://tfhub.dev/google/nnlm-en-dim128/2";
- the id of a model on the Hugging Face Hub, "bert-base-uncased" or "owner/name".

What a hub gave once is in its own cache, and is used from there without asking the network. This
module does not import torch. It imports TensorFlow only where a SavedModel is found, whose graph is
checked first.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pooch

from tlbook.sources import assets, cache, graphs
from tlbook.sources.catalog import Model, alternative, packaged

#: Seconds without a byte after which TensorFlow Hub is given up, and Hugging Face when it is first
#: asked for a model. For its files, $HF_HUB_ETAG_TIMEOUT and $HF_HUB_DOWNLOAD_TIMEOUT hold.
TIMEOUT = 30.0
#: What is fetched of a model on the Hugging Face Hub, and what is not.
FILES, OTHERS = ["*.json", "*.txt", "*.model", "*.safetensors"], ["onnx/*", "openvino/*"]

#: One of these is in every folder with a text model.
TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)


def folder(handle: str | Path, revision: str | None = None) -> Path:
    """Return the local folder with the files of a model, which are fetched if they are not there.

    Parameters
    ----------
    handle : str or Path
        A packaged name, a folder, an address or an id, tried in the order above.
    revision : str, optional
        Branch, tag or commit, for an id on the Hugging Face Hub only.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it is on a hub that cannot give it. The message says why,
        which packaged model can take its place, and how to fetch it ahead.
    ValueError
        If a revision is given for something that has none, or it is a SavedModel that does more
        than compute; see :func:`tlbook.sources.graphs.check`.
    tlbook.sources.assets.AssetError
        If it is a packaged model that cannot be fetched.
    """
    place = _folder(handle, revision)
    if (place / "saved_model.pb").is_file():
        graphs.check(place)
    return place


def _folder(handle: str | Path, revision: str | None) -> Path:
    name = str(handle)
    if name in packaged():
        _no_revision(revision, f"{name!r} is packaged and has one version")
        return _packaged(packaged()[name])
    if Path(handle).is_dir():
        _no_revision(revision, f"{name!r} is a folder")
        return Path(handle)
    if name.startswith(("http://", "https://")):
        _no_revision(revision, f"{name!r} names its version at its end")
        return _from_tensorflow_hub(name)
    return _from_hugging_face(name, revision)


def _no_revision(revision: str | None, why: str) -> None:
    if revision is not None:
        raise ValueError(f"{why}: revision is for ids of the Hugging Face Hub.")


def _packaged(model: Model) -> Path:
    if model.build:
        from tlbook.sources import ports

        return ports.path(model)
    return assets.path(model.asset) / model.folder


# Hugging Face


def _from_hugging_face(handle: str, revision: str | None) -> Path:
    kept = _snapshot(handle, revision)
    if kept and _has_weights(kept) and any((kept / name).is_file() for name in TOKENIZERS):
        return kept
    try:
        return _download(handle, revision)
    except Exception as error:  # of the Hub, of its HTTP client, or a handle that cannot be an id
        if kept and _has_weights(kept):
            return kept  # it has no tokenizer on the Hub either, or nobody can say
        option = f" --revision {revision}" if revision else ""
        raise _not_found(handle, "the Hugging Face Hub", error, option) from error


def _snapshot(handle: str, revision: str | None) -> Path | None:
    """What the Hub's cache has of a model: all of it, or a few of its files."""
    from huggingface_hub import snapshot_download

    options = {"revision": revision, "allow_patterns": FILES, "ignore_patterns": OTHERS}
    with suppress(OSError, ValueError):  # nothing; or the handle cannot be an id
        return Path(snapshot_download(handle, **options, local_files_only=True))
    return None


def _has_weights(place: Path) -> bool:
    """Whether a snapshot has the configuration, and all weights in one of their two formats."""

    def whole(name: str) -> bool:
        index, shards = place / f"{name}.index.json", {name}
        if index.is_file():  # which may be there without its shards: it is a small file
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
                return False
        return all((place / shard).is_file() for shard in shards)

    formats = ("model.safetensors", "pytorch_model.bin")
    return (place / "config.json").is_file() and any(map(whole, formats))


def _download(handle: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # The library asks again and again, and sets no limit, where the Hub is silent, busy or refuses.
    # So the Hub is asked once first.
    HfApi().model_info(handle, revision=revision or "main", timeout=TIMEOUT)

    options = {"revision": revision, "ignore_patterns": OTHERS}
    place = Path(snapshot_download(handle, **options, allow_patterns=FILES))
    if not any(place.glob("*.safetensors")):
        snapshot_download(handle, **options, allow_patterns=["pytorch_model*.bin*"])
    for file in (*place.glob("*.safetensors"), *place.glob("*.bin")):
        _check(file)
    return place


def _check(file: Path) -> None:
    """The cache names a large file by the SHA-256 that the Hub gave. The library compares sizes."""
    blob = file.resolve()
    if len(blob.name) == 64 and pooch.file_hash(str(blob)) != blob.name:
        file.unlink()
        blob.unlink(missing_ok=True)
        raise OSError(f"{file.name} is damaged: its SHA-256 differs from the one the Hub gave")


# TensorFlow Hub


def tensorflow_hub_cache() -> Path:
    """Return the folder where TensorFlow Hub keeps models.

    This is ``$TFHUB_CACHE_DIR``, or else a folder in the book's cache, which is then set for the
    library too. The library's own default is the system's temporary folder, which does not last.

    Returns
    -------
    pathlib.Path
        The folder. It need not exist yet.
    """
    os.environ.setdefault("TFHUB_CACHE_DIR", str(cache.folder() / "tfhub"))
    return Path(os.environ["TFHUB_CACHE_DIR"])


def _from_tensorflow_hub(url: str) -> Path:
    place = tensorflow_hub_cache() / hashlib.sha1(url.encode()).hexdigest()  # the library's layout
    if (place / "saved_model.pb").is_file():
        return place
    import tensorflow_hub

    try:
        if os.environ.get("TFHUB_MODEL_LOAD_FORMAT") == "UNCOMPRESSED":
            raise OSError("TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED keeps nothing here: unset it")
        shutil.rmtree(place, ignore_errors=True)  # half of a model: it would be taken for whole
        _remove_stale_lock(place)
        with _default_timeout(TIMEOUT):
            place = Path(tensorflow_hub.resolve(url))
        _check_saved_model(place)
    except graphs.GraphError:
        raise
    except Exception as error:  # of the network, of the archive, or of TensorFlow's file system
        raise _not_found(url, "TensorFlow Hub", error) from error
    return place


def _check_saved_model(place: Path) -> None:
    """The library keeps whatever the archive held, and would give it for ever."""
    import tensorflow as tf

    with suppress(ImportError):  # registers the operations of tokenizers
        import tensorflow_text  # noqa: F401
    try:
        if not (place / "saved_model.pb").is_file():
            raise OSError("what it sent is not a SavedModel")
        graphs.check(place)
        tf.saved_model.load(str(place))
    except Exception as error:
        if "not registered" not in str(error):  # then it is whole, and asks for another package
            shutil.rmtree(place, ignore_errors=True)
        raise


@contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """The library sets no limit of its own: a server that falls silent would be waited for."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _remove_stale_lock(place: Path) -> None:
    """Remove the lock and the part of a download whose process is dead.

    The library would wait ten minutes for it. A lock holds host, process and a random id.
    """
    lock = Path(f"{place}.lock")
    with suppress(OSError, ValueError):
        host, process, task = lock.read_text().rsplit(".", 2)
        if os.name == "posix" and host == socket.gethostname():
            try:
                os.kill(int(process), 0)  # sends nothing: only asks whether it is there
            except ProcessLookupError:
                shutil.rmtree(f"{place}.{task}.tmp", ignore_errors=True)
                lock.unlink()


# What is there, and what to say when it is not


def present(model: Model) -> bool:
    """Return whether the archive of a packaged model is here.

    Parameters
    ----------
    model : Model
        A packaged model.

    Returns
    -------
    bool
        Whether its asset is unpacked in the cache.
    """
    return assets.folder(assets.table()[model.asset]).is_dir()


def cached() -> list[tuple[str, str, int]]:
    """List the models in the caches of the two hubs.

    Returns
    -------
    list of tuple of (str, str, int)
        Handle, revision (empty for TensorFlow Hub) and size in bytes of each model, sorted.
    """
    found = []
    with suppress(ImportError):
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        with suppress(CacheNotFound):
            found += [
                (repo.repo_id, revision.commit_hash, revision.size_on_disk)
                for repo in scan_cache_dir().repos
                if repo.repo_type == "model"
                for revision in repo.revisions
            ]
    for note in sorted(tensorflow_hub_cache().glob("*.descriptor.txt")):
        place = note.with_name(note.name.removesuffix(".descriptor.txt"))
        if place.is_dir():
            url = note.read_text().splitlines()[0].removeprefix("Module: ")
            found.append((url, "", bytes_in(place)))
    return sorted(found)


def bytes_in(place: Path) -> int:
    """Compute the size of all files in a folder.

    Parameters
    ----------
    place : pathlib.Path
        The folder. Folders inside it count too.

    Returns
    -------
    int
        The size in bytes.
    """
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _not_found(handle: str, hub: str, error: Exception, option: str = "") -> FileNotFoundError:
    if type(error).__name__ == "LocalEntryNotFoundError":  # "check your connection", says the Hub's
        error = error.__cause__ or error  # client of anything that happens to a file
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    instead = alternative(handle)
    advice = f"Without a network, use the packaged {instead!r}. " if instead else ""
    return FileNotFoundError(
        f"No model {handle!r}: it is not a packaged name ({', '.join(packaged())}), not a local "
        f"folder, and {hub} did not give it: {reason}. {advice}"
        f"To fetch it ahead, with a network: python -m tlbook models fetch {handle}{option}"
    )
