"""tlbook.sources.hubs and the hubs' own client libraries, against loopback servers and their
faults.

The clients are the real ones, unmodified. They read HF_ENDPOINT and HF_HUB_OFFLINE when they are
imported, so they run in processes of their own, with caches of their own.

The happy path is also there for the public hubs. It needs a network and downloads about 700 MB::

    TLBOOK_TEST_HUBS=public python -m pytest tests/test_hubs.py -k public
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import loopback
from tests.loopback import HuggingFaceHub, TensorFlowHub
from tlbook.sources import hubs

BERT = "google-bert/bert-base-uncased"
NNLM = "/google/nnlm-en-dim50/2"
PUBLIC = pytest.param(
    "public",
    marks=pytest.mark.skipif(
        os.environ.get("TLBOOK_TEST_HUBS") != "public",
        reason="downloads 700 MB from the public hubs: TLBOOK_TEST_HUBS=public "
        "python -m pytest tests/test_hubs.py -k public",
    ),
)


# Processes with the real clients


WORKER = """
import json, os, sys, time
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints must not come between the replies
naps = []

def set_variables(values):
    before = {key: os.environ.pop(key, None) for key in values}
    os.environ.update({key: value for key, value in values.items() if value is not None})
    return before

exec(sys.argv[1])
for line in sys.stdin:
    naps.clear()
    reply = {"value": None, "error": "", "message": ""}
    began = time.perf_counter()
    try:
        reply["value"] = eval(json.loads(line))
    except Exception as error:
        reply |= {"error": type(error).__name__, "message": str(error)}
    reply |= {"seconds": time.perf_counter() - began, "naps": sum(naps)}
    print(json.dumps(reply), file=replies, flush=True)
"""

#: Waits between attempts are written down instead of waited for.
NO_NAPS = "time.sleep = naps.append"
FOLDER = "from tlbook.sources import hubs; from huggingface_hub import snapshot_download"


@dataclasses.dataclass
class Reply:
    value: object
    error: str
    message: str
    seconds: float
    naps: float


class Worker:
    """A Python process that evaluates expressions, one after the other."""

    def __init__(self, environment: dict[str, str], *statements: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, "\n".join(statements)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors += line

    def send(self, expression: str) -> None:
        self.process.stdin.write(json.dumps(expression) + "\n")
        self.process.stdin.flush()

    def ask(self, expression: str, seconds: float = 60.0) -> Reply:
        """What an expression gives or raises; the process is killed when that takes too long."""
        deadline = threading.Timer(seconds, self.process.kill)
        deadline.start()
        try:
            self.send(expression)
            line = self.process.stdout.readline()
        finally:
            deadline.cancel()
        assert line, f"no reply to {expression} in {seconds} s\n{self.errors[-2000:]}"
        return Reply(**json.loads(line))

    def folder(self, handle: str, revision: str | None = None, seconds: float = 60.0) -> Reply:
        """What tlbook.sources.hubs.folder gives or raises."""
        return self.ask(f"str(hubs.folder({handle!r}, {revision!r}))", seconds)

    @contextlib.contextmanager
    def variables(self, **values: str | None):
        """Environment variables, or None for absent ones, for a while."""
        before = self.ask(f"set_variables({values!r})").value
        yield
        self.ask(f"set_variables({before!r})")


def environment(caches: Path, *, public: bool = False, **changes: str) -> dict[str, str]:
    """Variables of a process with empty caches that may ask a hub."""
    of_hubs = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TFHUB_")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(of_hubs) and (public or not key.lower().endswith("_proxy"))
    }
    own = {
        "HF_HOME": str(caches / "hf"),
        "TFHUB_CACHE_DIR": str(caches / "tfhub"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return {**kept, **own, **changes}


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def told(reply: Reply, handle: str, *words: str, instead: str) -> None:
    """A message in one line: what was asked, why not, what to use instead, how to fetch it."""
    assert reply.error == "FileNotFoundError", reply
    command = f"python -m tlbook models fetch {handle}"
    for word in (repr(handle), *words, f"use the packaged {instead!r}", command):
        assert word in reply.message, reply.message
    assert "\n" not in reply.message


def contents(folder: str | Path) -> dict[str, bytes]:
    files = (file for file in Path(folder).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


# Hugging Face: transformers itself


LOAD = """
import hashlib
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification
from tlbook.sources import pretrained

def digest(model):
    weights = sorted(model.state_dict().items())
    return hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in weights)).hexdigest()

def load(name, **where):
    tokenizer = AutoTokenizer.from_pretrained(name, **where)
    model = AutoModel.from_pretrained(name, **where)
    classifier = BertForSequenceClassification.from_pretrained(name, num_labels=3, **where)
    return {
        "ids": tokenizer("a text")["input_ids"],
        "weights": [digest(model), digest(classifier.bert)],
        "kind": type(model).__name__,
        "head": list(classifier.classifier.weight.shape),
    }
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """Two versions of a tiny BERT with MiniLM's tokenizer, as a repository of the Hub has them."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    tokenizer = AutoTokenizer.from_pretrained(hubs.folder("minilm-l6"))
    folders = {}
    for seed, name in enumerate(("old", "new")):
        folder = folders[name] = tmp_path_factory.mktemp("tiny") / name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text("A model card")
    return folders


def digest(folder: Path) -> str:
    """What ``digest`` of the workers says of the model in a folder."""
    from safetensors.numpy import load_file

    weights = sorted(load_file(folder / "model.safetensors").items())
    return hashlib.sha256(b"".join(value.tobytes() for _, value in weights)).hexdigest()


@dataclasses.dataclass
class Story:
    """Loads of "bert-base-uncased" one after the other, and what the hub was asked for each."""

    replies: dict[str, Reply]
    requests: dict[str, list[str]]
    expected: dict[str, str]  # digests of weights, where they are known

    def loaded(self, part: str) -> dict:
        assert not self.replies[part].error, self.replies[part].message
        return self.replies[part].value

    def fetched(self, part: str) -> list[str]:
        """The names of files whose content was sent."""
        return [
            line.split("/")[-1]
            for line in self.requests[part]
            if line.startswith(("GET /storage/", "GET /api/resolve-cache/"))
        ]


@pytest.fixture(scope="module", params=["loopback", PUBLIC])
def bert(request, tmp_path_factory):
    public = request.param == "public"
    caches = tmp_path_factory.mktemp("bert")
    hub = None if public else HuggingFaceHub()
    story = Story({}, {}, {})
    if public:
        variables = environment(caches, public=True)
    else:
        tiny = request.getfixturevalue("tiny")
        story.expected = {name: digest(folder) for name, folder in tiny.items()}
        variables = environment(caches, HF_ENDPOINT=hub.url)
        old = hub.publish(BERT, tiny["old"])
        hub.publish(BERT, tiny["new"], "main")
        hub.renamed["bert-base-uncased"] = BERT
        hub.spoil("/storage/", loopback.cut, times=1)

    def ask(worker: Worker, part: str, expression: str) -> None:
        story.replies[part] = worker.ask(expression, 3600 if public else 60)
        if hub:
            story.requests[part] = hub.requests[:]
            hub.heal()

    with hub or contextlib.nullcontext():
        with Worker(variables, LOAD) as worker:
            ask(worker, "first", "load('bert-base-uncased')")
        if public:
            story.loaded("first")
            refs = caches / "hf/hub/models--bert-base-uncased/refs"
            old = (refs / "main").read_text()
        pinned = f"load('bert-base-uncased', revision={old!r})"
        with Worker(variables, LOAD, NO_NAPS) as worker:
            ask(worker, "again", "load('bert-base-uncased')")
            ask(worker, "pinned", pinned)
            if hub:
                hub.close()
                ask(worker, "down", "load('bert-base-uncased')")
    with Worker({**variables, "HF_HUB_OFFLINE": "1"}, LOAD) as worker:
        ask(worker, "offline", "load('bert-base-uncased')")
        ask(worker, "offline, pinned", pinned)
        ask(worker, "ours", "pretrained.load('bert-base-uncased').fingerprint")
        ask(worker, "ours, pinned", f"pretrained.load('bert-base-uncased', {old!r}).fingerprint")
        ask(worker, "offline, another", "load('google-bert/bert-large-uncased')")
    return story


def test_from_pretrained_downloads_from_the_hub(bert):
    loaded = bert.loaded("first")
    assert loaded["ids"][0] == 101 and loaded["ids"][-1] == 102  # [CLS] and [SEP]
    assert (loaded["kind"], loaded["head"][0]) == ("BertModel", 3)
    model, base = loaded["weights"]
    assert model == base == bert.expected.get("new", model)


def test_from_pretrained_fetches_nothing_again(bert):
    assert bert.loaded("again") == bert.loaded("first")
    assert not bert.requests or bert.fetched("again") == []


def test_from_pretrained_of_a_pinned_revision(bert):
    weights = bert.loaded("pinned")["weights"][0]
    assert weights == bert.expected.get("old", weights)
    assert bert.loaded("offline, pinned") == bert.loaded("pinned")


def test_from_pretrained_offline(bert):
    assert bert.loaded("offline") == bert.loaded("first")
    another = bert.replies["offline, another"]
    assert another.error == "OSError" and another.seconds < 1


def test_our_load_uses_what_from_pretrained_left(bert, request):
    from tlbook import sources

    assert bert.loaded("ours") and bert.loaded("ours, pinned")
    if bert.expected:
        for part, name in (("ours", "new"), ("ours, pinned", "old")):
            folder = request.getfixturevalue("tiny")[name]
            assert bert.loaded(part) == sources.load(folder).fingerprint


def test_from_pretrained_survives_a_connection_that_was_cut(bert):
    if not bert.requests:
        pytest.skip("only a loopback hub breaks off when told to")
    assert bert.fetched("first").count("model.safetensors") == 2


def test_from_pretrained_with_the_hub_down(bert):
    """Without HF_HUB_OFFLINE the cache is used as well, after attempts to reach the hub."""
    if not bert.requests:
        pytest.skip("only a loopback hub goes down when told to")
    assert bert.loaded("down") == bert.loaded("first")
    assert bert.requests["down"] == []


# Hugging Face: our layer, on a repository of three files


ID = "someone/bert-tiny"
WEIGHTS = random.Random(0).randbytes(300_000)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def hub():
    with HuggingFaceHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """One process for many repositories: a fault must not last longer than it has to."""
    caches = tmp_path_factory.mktemp("client")
    with Worker(environment(caches, HF_ENDPOINT=hub.url), FOLDER, NO_NAPS) as worker:
        worker.caches = caches
        yield worker


def blobs(caches: Path, handle: str) -> list[Path]:
    return list((caches / f"hf/hub/models--{handle.replace('/', '--')}").glob("blobs/*"))


def test_revisions_and_names(hub, client, repository, tmp_path):
    handle = "someone/bert-revisions"
    shutil.copytree(repository, tmp_path / "old")
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "README.md").write_text("not needed")
    old = hub.publish(handle, tmp_path / "old", "v1")
    new = hub.publish(handle, repository, "main")
    hub.renamed["bert-revisions"] = handle
    for name in (handle, "bert-revisions"):
        for revision, commit in ((None, new), ("main", new), ("v1", old), (old, old)):
            reply = client.folder(name, revision)
            assert Path(reply.value).name == commit
            config = "{}" if commit == old else '{"model_type": "bert"}'
            expected = contents(repository) | {"config.json": config.encode()}
            assert contents(reply.value) == expected
    hub.heal()
    assert client.folder(handle).value and client.folder(handle, "v1").value
    assert hub.requests == [], "they are in the cache"


INFO, TREE = "/api/models/{}/revision/", "/api/models/{}/tree/"
RESOLVE, STORAGE = "/{}/resolve/", "/storage/{}/"
CONFIG = "/api/resolve-cache/models/{}/"
GATED = loopback.refuse(403, X_Error_Code="GatedRepo", X_Error_Message="Ask its authors for access")


def known(reason: str):
    """A fault that is there today; strict, so that nobody repairs it without noticing."""
    return pytest.mark.xfail(strict=True, reason=reason)


@pytest.mark.parametrize(
    ("where", "fault", "reason"),
    [
        pytest.param(INFO, loopback.refuse(403), "403 Forbidden", id="refused"),
        pytest.param(INFO, loopback.refuse(404), "404 Not Found", id="absent"),
        pytest.param(INFO, loopback.refuse(429, Retry_After="7"), "429 Too Many", id="limited"),
        pytest.param(INFO, loopback.refuse(500), "500 Internal", id="in trouble"),
        pytest.param(TREE, loopback.refuse(500), "500 Internal", id="no list of files"),
        pytest.param(RESOLVE, GATED, "Ask its authors", id="gated"),
        pytest.param(RESOLVE, loopback.refuse(403), "403", id="file refused"),
        pytest.param(STORAGE, loopback.refuse(403), "403 Forbidden", id="weights refused"),
        pytest.param(STORAGE, loopback.refuse(404), "404 Not Found", id="weights absent"),
        pytest.param(STORAGE, loopback.refuse(429, Retry_After="7"), "429", id="weights limited"),
        pytest.param(STORAGE, loopback.refuse(500), "500 Internal", id="weights in trouble"),
        pytest.param(STORAGE, loopback.redirect("/nowhere"), "404 Not Found", id="sent nowhere"),
        pytest.param(STORAGE, loopback.cut, "closed connection", id="cut"),
        pytest.param(STORAGE, loopback.truncate, "Consistency check", id="truncated"),
        pytest.param(STORAGE, loopback.body(b""), "Consistency check", id="empty"),
        pytest.param(RESOLVE, loopback.another_size(7), "Consistency check", id="announced larger"),
        pytest.param(RESOLVE, loopback.another_size(-7), "Consistency check", id="and smaller"),
        pytest.param(CONFIG, loopback.cut, "closed connection", id="small file cut"),
        pytest.param(STORAGE, loopback.body(WEIGHTS[::-1]), "SHA-256", id="other bytes"),
    ],
)
def test_a_fault_of_hugging_face_is_told_and_does_not_last(
    hub, client, repository, request, where, fault, reason
):
    handle = f"someone/bert-{request.node.callspec.id.replace(' ', '-')}"
    hub.publish(handle, repository, "main")
    hub.spoil(where.format(handle), fault)
    reply = client.folder(handle)
    hub.heal()
    good = {file.read_bytes() for file in repository.iterdir()}
    assert {file.read_bytes() for file in blobs(client.caches, handle)} <= good
    assert contents(client.folder(handle).value) == contents(repository)
    told(reply, handle, reason, instead="minilm-l6")
    assert reply.naps < 60


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        pytest.param(TREE, loopback.refuse(500), id="in trouble"),
        pytest.param(RESOLVE, loopback.refuse(500), id="a file in trouble"),
        pytest.param(STORAGE, loopback.refuse(429, Retry_After="7"), id="limited"),
        pytest.param(STORAGE, loopback.cut, id="cut"),
    ],
)
def test_a_fault_that_passes_is_not_seen(hub, client, repository, request, where, fault):
    handle = f"someone/bert-passing-{request.node.callspec.id.replace(' ', '-')}"
    hub.publish(handle, repository, "main")
    hub.spoil(where.format(handle), fault, times=1)
    reply = client.folder(handle)
    hub.heal()
    assert contents(reply.value) == contents(repository)
    assert reply.naps <= 8


def test_a_large_file_goes_on_where_the_connection_was_cut(hub, client, tmp_path):
    """The client keeps what came in steps of 10 MB."""
    handle, weights = "someone/bert-large", random.Random(1).randbytes(24_000_000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    hub.publish(handle, tmp_path, "main")
    hub.spoil(f"/storage/{handle}/", loopback.cut, times=1)
    reply = client.folder(handle)
    parts = [line.partition(" bytes=")[2] for line in hub.requests if "GET /storage/" in line]
    hub.heal()
    assert parts == ["", f"{10 * 2**20}-"]
    assert contents(reply.value) == {"model.safetensors": weights}


@known("the Hub's client waits as long as the Hub says, five times")
def test_nobody_waits_an_hour_for_the_hub(hub, client, repository):
    handle = "someone/bert-later"
    hub.publish(handle, repository, "main")
    hub.spoil(f"/storage/{handle}/", loopback.refuse(429, Retry_After="3600"))
    reply = client.folder(handle)
    hub.heal()
    assert reply.naps < 60


LONG = known("the Hub's client asks for each file six times, with 60 s each")


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        pytest.param(INFO, loopback.stall(60), id="from the start"),
        pytest.param(RESOLVE, loopback.stall(60), id="for a file", marks=LONG),
        pytest.param(STORAGE, loopback.stall_halfway(60), id="in the weights"),
    ],
)
def test_a_silent_hub_is_given_up(hub, repository, tmp_path, where, fault):
    hub.publish(ID, repository, "main")
    hub.spoil(where.format(ID), fault)
    limits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    variables = environment(tmp_path, HF_ENDPOINT=hub.url, **limits)
    try:
        with Worker(variables, FOLDER, "hubs.TIMEOUT = 1", NO_NAPS) as worker:
            told(worker.folder(ID, seconds=8), ID, "timed out", instead="minilm-l6")
            hub.heal()
            assert contents(worker.folder(ID).value) == contents(repository)
    finally:
        hub.heal()


@pytest.mark.parametrize(
    ("handle", "revision", "reason"),
    [("someone/no-bert", None, "Repository Not Found"), (ID, "v9", "Revision Not Found")],
)
def test_what_the_hub_does_not_have(hub, client, repository, handle, revision, reason):
    hub.publish(ID, repository, "main")
    reply = client.folder(handle, revision)
    told(reply, handle, reason, instead="minilm-l6")
    assert (" --revision v9" in reply.message) == (revision == "v9")


@pytest.mark.parametrize("network", ["HF_HUB_OFFLINE", "none"])
def test_without_a_network(hub, repository, tmp_path, network):
    hub.publish(ID, repository, "main")
    with Worker(environment(tmp_path, HF_ENDPOINT=hub.url), FOLDER) as worker:
        place = worker.folder(ID).value
    hub.heal()
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.url}
    variables = offline if network == "HF_HUB_OFFLINE" else {"HF_ENDPOINT": closed_port()}
    with Worker(environment(tmp_path, **variables), FOLDER) as worker:
        assert worker.folder(ID).value == place
        reply = worker.folder("someone/other-bert")
    told(reply, "someone/other-bert", instead="minilm-l6")
    assert reply.seconds < 1
    assert hub.requests == []


def test_a_model_of_which_only_the_tokenizer_is_in_the_cache(hub, repository, tmp_path):
    """That is what AutoTokenizer.from_pretrained leaves."""
    hub.publish(ID, repository, "main")
    code = "from huggingface_hub import hf_hub_download"
    with Worker(environment(tmp_path, HF_ENDPOINT=hub.url), FOLDER, code) as worker:
        for file in ("config.json", "tokenizer.json"):
            assert not worker.ask(f"hf_hub_download({ID!r}, {file!r})").error
        assert contents(worker.folder(ID).value) == contents(repository)


def test_shards_in_one_of_two_formats_are_enough(hub, client, tmp_path):
    """Many repositories list both, and only safetensors are fetched."""
    handle = "someone/bert-sharded"
    for name, shard in (
        ("model.safetensors", "model-1.safetensors"),
        ("pytorch_model.bin", "p-1.bin"),
    ):
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    for name in ("config.json", "tokenizer.json", "model-1.safetensors", "p-1.bin"):
        (tmp_path / name).write_text("{}")
    hub.publish(handle, tmp_path, "main")
    place = Path(client.folder(handle).value)
    assert {file.name for file in place.iterdir()} == contents(tmp_path).keys() - {"p-1.bin"}
    hub.heal()
    assert client.folder(handle).value == str(place)
    assert hub.requests == []
    (place / "model-1.safetensors").unlink()
    assert contents(client.folder(handle).value)["model-1.safetensors"] == b"{}"


def test_a_download_that_was_killed_is_begun_anew(hub, repository, tmp_path):
    hub.publish(ID, repository, "main")
    hub.spoil("/storage/", loopback.stall_halfway(60))
    variables = environment(tmp_path, HF_ENDPOINT=hub.url)
    with Worker(variables, FOLDER) as worker:
        worker.send(f"str(hubs.folder({ID!r}))")
        wait_for(lambda: any(file.suffix == ".incomplete" for file in blobs(tmp_path, ID)))
        worker.process.send_signal(signal.SIGKILL)
    hub.heal()
    whole = [file for file in blobs(tmp_path, ID) if file.suffix != ".incomplete"]
    assert WEIGHTS not in [file.read_bytes() for file in whole]
    with Worker(variables, FOLDER) as worker:
        assert contents(worker.folder(ID).value) == contents(repository)


# The command


def command(variables: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    call = [sys.executable, "-m", "tlbook", "models", *arguments]
    run = subprocess.run(call, env=variables, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout, run.stderr


def test_models_are_fetched_ahead_and_listed(hub, repository, tmp_path):
    commit = hub.publish(ID, repository, "main", "v1")
    variables = environment(tmp_path, HF_ENDPOINT=hub.url)
    assert ID not in command(variables)[1]
    for revision in ([], ["--revision", "v1"]):
        code, output, errors = command(variables, "fetch", ID, *revision)
        assert (code, errors) == (0, "")
        name, place = output.strip().split(": ")
        assert name == ID and contents(place) == contents(repository)

    offline = {**variables, "HF_HUB_OFFLINE": "1"}
    assert command(offline, "fetch", ID)[0] == 0
    code, output, _ = command(offline)
    assert code == 0
    (line,) = [line for line in output.splitlines() if line.startswith(ID)]
    assert "0.3 MB" in line and commit in line


def test_a_model_that_cannot_be_fetched(tmp_path):
    code, output, errors = command(
        environment(tmp_path, HF_ENDPOINT=closed_port()), "fetch", ID, "--revision", "v1"
    )
    assert (code, output) == (1, "")
    assert f"models fetch {ID} --revision v1" in errors and "'minilm-l6'" in errors
    assert "Traceback" not in errors


# TensorFlow Hub


TENSORFLOW = """
import tensorflow as tf
import tensorflow_hub
from tlbook.sources import hubs

def save(folder, value):
    module = tf.train.Checkpoint(weights=tf.Variable(tf.fill([4], value)))
    call = lambda texts: tf.ones([tf.size(texts), 1]) * module.weights
    module.__call__ = tf.function(call, [tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, folder)

def embed(handle):
    return tensorflow_hub.load(handle)(tf.constant(["a", "text"])).numpy().tolist()
"""

#: Of TensorFlow's own client for gs://, which would try for three minutes.
NO_ATTEMPTS = {"GCS_RETRY_CONFIG_MAX_RETRIES": "0", "NO_GCE_CHECK": "true"}


@pytest.fixture(scope="module")
def tf_hub():
    with TensorFlowHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def tf_client(tmp_path_factory):
    """One process for all faults: TensorFlow takes seconds to import."""
    caches = tmp_path_factory.mktemp("tf-client")
    with Worker(environment(caches, **NO_ATTEMPTS), TENSORFLOW, "hubs.TIMEOUT = 1.0") as worker:
        worker.caches = caches
        yield worker


@pytest.fixture(scope="module")
def saved_model(tf_client, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved-model") / "nnlm"
    assert not tf_client.ask(f"save({str(folder)!r}, 0.5)").error
    return folder


VECTORS = [[0.5] * 4] * 2  # of two texts


@pytest.fixture(scope="module", params=["loopback", PUBLIC])
def nnlm(request, tmp_path_factory):
    """A handle, the process that asks, and the hub where it is ours."""
    if request.param == "public":
        caches = tmp_path_factory.mktemp("nnlm")
        with Worker(environment(caches, public=True), TENSORFLOW) as worker:
            worker.caches = caches
            yield f"https://tfhub.dev{NNLM}", worker, None
    else:
        hub, worker = map(request.getfixturevalue, ("tf_hub", "tf_client"))
        hub.publish(NNLM, request.getfixturevalue("saved_model"))
        yield hub.url + NNLM, worker, hub


def test_tensorflow_hub_loads_and_fetches_nothing_again(nnlm):
    handle, worker, hub = nnlm
    reply = worker.ask(f"embed({handle!r})", seconds=3600)
    assert not reply.error, reply.message
    if hub:
        assert reply.value == VECTORS
        assert hub.requests == [f"GET {NNLM}", f"GET /tfhub-modules{NNLM}.tar.gz"]
        hub.heal()
    else:
        assert [len(vector) for vector in reply.value] == [50, 50]
    assert worker.ask(f"embed({handle!r})").value == reply.value

    place = worker.folder(handle).value
    assert worker.ask(f"embed({place!r})").value == reply.value
    assert not hub or hub.requests == []

    # Another process, without a network; TensorFlow comes in only to read the graph
    with Worker(environment(worker.caches, HTTPS_PROXY=closed_port()), FOLDER) as other:
        assert not other.ask("'tensorflow' in sys.modules").value
        assert other.folder(handle).value == place


def test_handles_of_kaggle(tf_hub, tf_client, saved_model):
    path = "/models/google/nnlm/tensorFlow2/en-dim50/1"
    tf_hub.publish(path, saved_model)
    place = tf_client.folder(tf_hub.url + path).value
    assert contents(place) == contents(saved_model)


def leftovers(caches: Path, handle: str) -> list[str]:
    """Whatever the cache of TensorFlow Hub has of a handle, but for a note that nothing reads."""
    found = (caches / "tfhub").glob(hashlib.sha1(handle.encode()).hexdigest() + "*")
    return [file.name for file in found if not file.name.endswith(".descriptor.txt")]


def archive(**files: bytes) -> bytes:
    return b"".join(loopback.tar_gz(files))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(loopback.refuse(403), "403: Forbidden", id="refused"),
        pytest.param(loopback.refuse(404), "404: Not Found", id="absent"),
        pytest.param(loopback.refuse(429, Retry_After="7"), "429: Too Many", id="limited"),
        pytest.param(loopback.refuse(500), "500: Internal", id="in-trouble"),
        pytest.param(loopback.redirect("/nowhere"), "404: Not Found", id="sent-nowhere"),
        pytest.param(loopback.redirect("file:///etc/passwd"), "not allowed", id="sent-to-a-file"),
        pytest.param(loopback.stall(60), "timed out", id="silent"),
        pytest.param(loopback.stall_halfway(60), "timed out", id="silent-halfway"),
        pytest.param(loopback.cut, "not appear to be a valid module", id="cut"),
        pytest.param(loopback.truncate, "not appear to be a valid module", id="truncated"),
        pytest.param(loopback.body(b"Sign in"), "not appear to be a valid module", id="a-page"),
        pytest.param(loopback.body(b""), "not appear to be a valid module", id="empty"),
        pytest.param(loopback.body(archive(a=b"")), "is not a SavedModel", id="another-archive"),
    ],
)
def test_a_fault_of_tensorflow_hub_is_told_and_does_not_last(
    tf_hub, tf_client, saved_model, request, fault, reason
):
    path = f"/google/nnlm-{request.node.callspec.id}/1"
    handle = tf_hub.url + path
    tf_hub.publish(path, saved_model)
    tf_hub.spoil(f"/tfhub-modules{path}", fault)
    reply = tf_client.folder(handle)
    tf_hub.heal()
    told(reply, handle, reason, instead="glove-50d")
    assert leftovers(tf_client.caches, handle) == []
    assert reply.seconds < 3
    place = tf_client.folder(handle).value
    assert contents(place) == contents(saved_model)
    assert tf_client.ask(f"embed({place!r})").value == VECTORS


@pytest.mark.parametrize("change", [7, -7])
def test_a_wrong_length_around_a_whole_archive_does_no_harm(tf_hub, tf_client, saved_model, change):
    """What it ends with, gzip's checksum, is not read by the client."""
    path = f"/google/nnlm-length/{change}"
    tf_hub.publish(path, saved_model)
    tf_hub.spoil(f"/tfhub-modules{path}", loopback.another_size(change))
    reply = tf_client.folder(tf_hub.url + path)
    tf_hub.heal()
    assert contents(reply.value) == contents(saved_model)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "./../evil"])
def test_an_archive_that_climbs_out(tf_hub, tf_client, saved_model, name):
    path = f"/google/nnlm-{hashlib.sha1(name.encode()).hexdigest()}/1"
    handle = tf_hub.url + path
    tf_hub.publish(path, saved_model)
    evil = b"".join(loopback.tar_gz({name: b"x", "saved_model.pb": b"x"}))
    tf_hub.spoil(f"/tfhub-modules{path}", loopback.body(evil))
    reply = tf_client.folder(handle)
    tf_hub.heal()
    told(reply, handle, "is invalid", instead="glove-50d")
    assert leftovers(tf_client.caches, handle) == []
    assert not list(tf_client.caches.rglob("evil"))


@pytest.mark.parametrize("last", ["saved_model.pb", "variables.data-00000-of-00001"])
def test_an_archive_that_ends_between_two_files(tf_hub, tf_client, saved_model, last):
    path = f"/google/nnlm-until-{last}/1"
    handle = tf_hub.url + path
    tf_hub.publish(path, saved_model)
    names = [place.name for place in sorted(saved_model.rglob("*"))]
    parts = loopback.packed(saved_model)[: 2 + names.index(last)]  # the folder itself is the first
    tf_hub.spoil(f"/tfhub-modules{path}", loopback.body(b"".join(parts)))
    reply = tf_client.folder(handle)
    tf_hub.heal()
    told(reply, handle, instead="glove-50d")
    assert leftovers(tf_client.caches, handle) == []
    assert contents(tf_client.folder(handle).value) == contents(saved_model)


def test_a_folder_that_holds_no_model_is_replaced(tf_hub, tf_client, saved_model):
    """Half removed by hand, or another archive: the library itself would give it for ever."""
    path = "/google/nnlm-half/1"
    tf_hub.publish(path, saved_model)
    place = Path(tf_client.folder(tf_hub.url + path).value)
    (place / "saved_model.pb").unlink()
    assert contents(tf_client.folder(tf_hub.url + path).value) == contents(saved_model)


def test_tensorflow_hub_without_a_network(tf_client):
    handle = closed_port() + NNLM
    reply = tf_client.folder(handle)
    told(reply, handle, "Connection refused", instead="glove-50d")
    assert reply.seconds < 1
    assert leftovers(tf_client.caches, handle) == []


def test_the_uncompressed_format_is_followed_to_its_location(tf_hub, tf_client, saved_model):
    """Up to the request for gs://, which TensorFlow sends to Google's host and no other.

    Where it goes is seen by being its proxy. What it would read is not tested here.
    """
    path = "/google/nnlm-uncompressed/1"
    tf_hub.publish(path, saved_model)
    tf_hub.heal()
    with tf_client.variables(TFHUB_MODEL_LOAD_FORMAT="UNCOMPRESSED", https_proxy=tf_hub.url):
        reply = tf_client.ask(f"embed({tf_hub.url + path!r})")
    assert f"gs://tfhub-modules{path}/uncompressed" in reply.message
    assert tf_hub.requests == [f"GET {path}", "CONNECT www.googleapis.com:443"]


def test_the_default_cache_lasts(tf_hub, tf_client, saved_model, tmp_path):
    """The library's own default is a temporary folder."""
    path = "/google/nnlm-default/1"
    tf_hub.publish(path, saved_model)
    with tf_client.variables(TFHUB_CACHE_DIR=None, TLBOOK_CACHE=str(tmp_path / "cache")):
        place = Path(tf_client.folder(tf_hub.url + path).value)
    assert place.parent == tmp_path / "cache" / "tfhub"
    assert contents(place) == contents(saved_model)


def test_a_killed_download_of_tensorflow_hub_locks_nobody_out(
    tf_hub, tf_client, saved_model, tmp_path
):
    path = "/google/nnlm-killed/1"
    handle = tf_hub.url + path
    tf_hub.publish(path, saved_model)
    tf_hub.spoil(f"/tfhub-modules{path}", loopback.stall_halfway(60))
    with Worker(environment(tmp_path), FOLDER) as worker:
        worker.send(f"str(hubs.folder({handle!r}))")
        wait_for(lambda: f"GET /tfhub-modules{path}.tar.gz" in tf_hub.requests)
        worker.process.send_signal(signal.SIGKILL)
    tf_hub.heal()
    assert any(name.endswith(".lock") for name in leftovers(tmp_path, handle))
    with tf_client.variables(TFHUB_CACHE_DIR=str(tmp_path / "tfhub")):
        reply = tf_client.folder(handle, seconds=10)
    assert contents(reply.value) == contents(saved_model)
    assert leftovers(tmp_path, handle) == [Path(reply.value).name]
