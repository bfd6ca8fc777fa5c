"""The two hubs on loopback ports, for the real client libraries, and ways for them to misbehave.

Each speaks the part of its hub's protocol that the client needs in order to download::

    with HuggingFaceHub() as hub:
        commit = hub.publish("google-bert/bert-base-uncased", folder, "main")
        hub.spoil("/google-bert/bert-base-uncased/resolve/", refuse(500), times=1)
        ...  # a process with HF_ENDPOINT=hub.url
        hub.requests  # ["GET /api/models/google-bert/bert-base-uncased", ...]

    with TensorFlowHub() as hub:
        hub.publish("/google/nnlm-en-dim50/2", folder)
        ...  # tensorflow_hub.load(f"{hub.url}/google/nnlm-en-dim50/2")
"""

import hashlib
import http.server
import json
import re
import socket
import tarfile
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit


@dataclass(frozen=True)
class Reply:
    """What a request gets."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # what Content-Length says, where it is not the truth
    pause: float = 0.0  # seconds of silence
    pause_at: int = -1  # after so many bytes of the body; -1 is before anything at all


Fault = Callable[[Reply], Reply]


# Faults


def refuse(status: int, **headers: str) -> Fault:
    """Another status; ``Retry_After="7"`` is the header Retry-After."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda reply: Reply(status, headers=named)


def stall(seconds: float) -> Fault:
    """Silence before the answer."""
    return lambda reply: replace(reply, pause=seconds)


def stall_halfway(seconds: float) -> Fault:
    """Silence in the middle of the body."""
    return lambda reply: replace(reply, pause=seconds, pause_at=len(reply.body) // 2)


def redirect(address: str, status: int = 302) -> Fault:
    return lambda reply: Reply(status, headers={"Location": address})


def cut(reply: Reply) -> Reply:
    """The connection closes in the middle of the body, before the length that was announced."""
    return replace(reply, body=reply.body[: len(reply.body) // 2], length=len(reply.body))


def truncate(reply: Reply) -> Reply:
    """Half of the body, under an honest Content-Length."""
    return replace(reply, body=reply.body[: len(reply.body) // 2])


def body(content: bytes) -> Fault:
    """Other content, under an honest Content-Length."""
    return lambda reply: replace(reply, body=content)


def another_size(change: int) -> Fault:
    """The headers tell another size than the file's."""

    def lie(reply: Reply) -> Reply:
        if "X-Linked-Size" in reply.headers:
            size = int(reply.headers["X-Linked-Size"]) + change
            return replace(reply, headers={**reply.headers, "X-Linked-Size": str(size)})
        return replace(reply, length=len(reply.body) + change)

    return lie


# What both hubs share


@dataclass
class _Spoiled:
    part: str
    fault: Fault
    times: float


class Hub(http.server.ThreadingHTTPServer):
    """A server on a loopback port while it is entered; ``answer`` is the honest reply."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.connections: set[socket.socket] = set()
        self.closing = threading.Event()
        self._spoiled: list[_Spoiled] = []
        self._lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Go down: connections are refused from now on, and those that are open end."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in tuple(self.connections):
            with suppress(OSError):  # it ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def spoil(self, part: str, fault: Fault, times: float = float("inf")) -> None:
        """Apply a fault to requests whose path contains ``part``, so many times."""
        self._spoiled.append(_Spoiled(part, fault, times))

    def heal(self) -> None:
        """Be honest from now on, and forget the requests of before."""
        with self._lock:
            self._spoiled.clear()
            self.requests.clear()

    def answer(self, path: str, query: dict[str, str]) -> Reply:
        raise NotImplementedError

    def reply(self, method: str, path: str, query: dict[str, str], part: str) -> Reply:
        reply = self.answer(path, query)
        with self._lock:
            self.requests.append(" ".join(filter(None, (method, path, part))))
            for spoiled in self._spoiled:
                if spoiled.part in path and spoiled.times > 0:
                    spoiled.times -= 1
                    return spoiled.fault(reply)
        return reply

    def handle_error(self, request, client_address):
        """Clients of these tests hang up in the middle."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as those of the hubs do
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self):
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self):
        url = urlsplit(self.path)
        part = self.headers.get("Range", "")
        query = dict(parse_qsl(url.query))
        reply = self.server.reply(self.command, unquote(url.path), query, part)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", part)
        if asked and reply.status == 200:
            reply = part_of(reply, int(asked[1]), asked[2])
        if reply.pause and reply.pause_at < 0 and self.server.closing.wait(reply.pause):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = len(reply.body) if reply.length is None else reply.length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.pause and reply.pause_at >= 0:
            self.wfile.write(reply.body[: reply.pause_at])
            self.server.closing.wait(reply.pause)
            self.wfile.write(reply.body[reply.pause_at :])
        else:
            self.wfile.write(reply.body)
        self.close_connection = self.close_connection or length != len(reply.body)

    do_HEAD = do_GET

    def do_CONNECT(self):
        """Used as a proxy, a hub tells by its ``requests`` what was to be reached, and refuses."""
        self.server.requests.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, *_):
        pass


def part_of(reply: Reply, first: int, last: str) -> Reply:
    """The reply to a request for a range of bytes."""
    size = len(reply.body)
    if first >= size:
        return Reply(416, headers={"Content-Range": f"bytes */{size}"})
    end = min(int(last) + 1, size) if last else size
    headers = {**reply.headers, "Content-Range": f"bytes {first}-{end - 1}/{size}"}
    return replace(reply, status=206, body=reply.body[first:end], headers=headers)


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    headers["Content-Type"] = "application/json"
    return Reply(status, json.dumps(value).encode(), headers)


# Hugging Face


ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
INFO = re.compile(rf"/api/models/{ID}(?:/revision/(?P<revision>[^/]+))?")
TREE = re.compile(rf"/api/models/{ID}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
RESOLVE = re.compile(rf"/{ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
CACHE = re.compile(rf"/api/resolve-cache/models/{ID}/(?P<revision>[0-9a-f]{{40}})/(?P<file>.+)")
STORAGE = re.compile(rf"/storage/{ID}/(?P<revision>[0-9a-f]{{40}})/(?P<file>.+)")


class HuggingFaceHub(Hub):
    """Model repositories, each a few commits of folders, under branches and tags.

    As on the real Hub, small files are redirected to a cache on the same host, and large ones
    (weights) to a storage on another, here "localhost" instead of "127.0.0.1".
    """

    LARGE = (".safetensors", ".bin")

    def __init__(self):
        super().__init__()
        self.commits: dict[str, dict[str, Path]] = {}  # repository: commit: folder
        self.names: dict[str, dict[str, str]] = {}  # repository: branch or tag: commit
        self.renamed: dict[str, str] = {}  # old id: id; the Hub redirects

    def publish(self, repository: str, folder: Path, *names: str) -> str:
        """Commit a folder under branches and tags; the commit's hash."""
        parts = [repository.encode()]
        for file in files_of(folder):
            parts += [file.relative_to(folder).as_posix().encode(), file.read_bytes()]
        commit = hashlib.sha1(b"\0".join(parts)).hexdigest()
        self.commits.setdefault(repository, {})[commit] = folder
        self.names.setdefault(repository, {}).update(dict.fromkeys(names, commit))
        return commit

    def answer(self, path: str, query: dict[str, str]) -> Reply:
        kinds = {
            TREE: self._tree,
            INFO: self._info,
            CACHE: self._content,
            STORAGE: self._content,
            RESOLVE: self._resolve,
        }
        kind, match = next(((k, m) for k in kinds if (m := k.fullmatch(path))), (None, None))
        if match is None:
            return json_reply({"error": "Not Found"}, 404)
        found = match.groupdict()
        repository = found.pop("id")
        if new := self.renamed.get(repository):
            place = path.replace(f"/{repository}", f"/{new}", 1)
            return Reply(307, headers={"Location": quote(place)})
        if repository not in self.commits:  # the Hub does not tell a private one from none at all
            return failure(401, "RepoNotFound", "Repository not found")
        revision = found.pop("revision") or "main"
        commit = self.names[repository].get(revision, revision)
        if commit not in self.commits[repository]:
            return failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return kinds[kind](repository, commit, **found)

    def _info(self, repository: str, commit: str) -> Reply:
        folder = self.commits[repository][commit]
        names = [file.relative_to(folder).as_posix() for file in files_of(folder)]
        return json_reply(
            {
                "id": repository,
                "modelId": repository,
                "sha": commit,
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": ["transformers"],
                "siblings": [{"rfilename": name} for name in names],
            }
        )

    def _tree(self, repository: str, commit: str, folder: str | None) -> Reply:
        root = self.commits[repository][commit]
        place = root / (folder or "")
        if not place.is_dir():
            return failure(404, "EntryNotFound", f"{folder} does not exist", commit)
        entries = []
        for file in files_of(place):
            content = file.read_bytes()
            entry = {
                "type": "file",
                "path": file.relative_to(root).as_posix(),
                "size": len(content),
                "oid": git_hash(content),
            }
            if file.suffix in self.LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return json_reply(entries)

    def _resolve(self, repository: str, commit: str, file: str) -> Reply:
        place = self.commits[repository][commit] / file
        if not place.is_file():
            return failure(404, "EntryNotFound", "Entry not found", commit)
        content = place.read_bytes()
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if place.suffix in self.LARGE:
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            host = f"http://localhost:{self.server_port}"
            headers["Location"] = f"{host}/storage/{repository}/{commit}/{quote(file)}"
            return Reply(302, headers=headers)
        headers["X-Linked-ETag"] = f'"{git_hash(content)}"'
        headers["Location"] = f"/api/resolve-cache/models/{repository}/{commit}/{quote(file)}"
        return Reply(307, headers=headers)

    def _content(self, repository: str, commit: str, file: str) -> Reply:
        content = (self.commits[repository][commit] / file).read_bytes()
        headers = {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit}
        return Reply(body=content, headers={**headers, "Accept-Ranges": "bytes"})


def failure(status: int, code: str, message: str, commit: str = "") -> Reply:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    if commit:
        headers["X-Repo-Commit"] = commit
    return json_reply({"error": message}, status, **headers)


def git_hash(content: bytes) -> str:
    """The name git gives to a file's content; the ETag of small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


# TensorFlow Hub


class TensorFlowHub(Hub):
    """SavedModels by handle, in both formats of the hub's protocol.

    ``?tf-hub-format=compressed`` is redirected to an archive in a storage; the reply to
    ``uncompressed`` is 303, with a gs:// location as its body.
    """

    def __init__(self):
        super().__init__()
        self.archives: dict[str, bytes] = {}

    def publish(self, handle: str, folder: Path) -> None:
        """Serve a folder under a handle such as "/google/nnlm-en-dim50/2"."""
        self.archives[handle] = b"".join(packed(folder))

    def answer(self, path: str, query: dict[str, str]) -> Reply:
        stored = path.removeprefix("/tfhub-modules").removesuffix(".tar.gz")
        if path != stored and stored in self.archives:
            return Reply(body=self.archives[stored], headers={"Content-Type": "application/gzip"})
        wanted = query.get("tf-hub-format")
        if path not in self.archives or wanted not in ("compressed", "uncompressed"):
            return Reply(404, b"Not Found")
        if wanted == "uncompressed":
            return Reply(303, f"gs://tfhub-modules{path}/uncompressed".encode())
        return Reply(302, headers={"Location": f"/tfhub-modules{path}.tar.gz"})


def packed(folder: Path) -> list[bytes]:
    """A folder as a tar.gz, in one part for each member and one for the end of the archive."""
    members = {".": None}
    for place in sorted(folder.rglob("*")):
        name = f"./{place.relative_to(folder).as_posix()}"
        members[name] = place.read_bytes() if place.is_file() else None
    return tar_gz(members)


def tar_gz(members: dict[str, bytes | None]) -> list[bytes]:
    """A tar.gz of names with contents, None for folders; see ``packed``."""
    compressor = zlib.compressobj(wbits=31)  # 31: with gzip's header and checksum
    parts = []
    for name, content in members.items():
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
        info.mode = 0o755 if content is None else 0o644
        info.size = len(content or b"")
        block = info.tobuf(tarfile.GNU_FORMAT) + (content or b"") + bytes(-info.size % 512)
        # A full flush, so that a part ends where its member ends
        parts.append(compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH))
    return [*parts, compressor.compress(bytes(1024)) + compressor.flush()]
