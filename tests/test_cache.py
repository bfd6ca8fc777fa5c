"""tlbook.sources.cache: keys that tell contents apart, and arrays that are stored whole or not at
all."""

import io
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from tlbook.sources import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_is_the_users_choice_or_the_systems(folder, monkeypatch, tmp_path):
    assert cache.folder() == folder
    monkeypatch.setenv("TLBOOK_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder().name == "tlbook"


def test_digest_is_the_same_in_another_process():
    code = "import numpy as np; from tlbook.sources import cache; print(cache.digest({}))"
    parts = "'a', b'b', np.arange(3), np.array(['x', 'y'], dtype=object)"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code.format(parts)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 32


def objects(*values):
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("a",), ("a", "")),
        (("a",), (b"a",)),
        ((np.array([1, 2]),), (np.array([2, 1]),)),
        ((np.zeros(4),), (np.zeros((2, 2)),)),
        ((np.zeros(2, "f4"),), (np.zeros(1, "f8"),)),
        ((np.array([1, 2], "i4"),), (np.array([1, 2], "u4"),)),
        ((objects("ab", "c"),), (objects("a", "bc"),)),
        ((objects("a", "b"),), (objects("b", "a"),)),
        # Texts may hold any character, so none can stand between them
        ((objects("a\0b", "c"),), (objects("a", "b\0c"),)),
        ((np.array(["a\0b", "c"]),), (np.array(["a", "b\0c"]),)),
    ],
)
def test_different_parts_have_different_digests(one, other):
    assert cache.digest(*one) != cache.digest(*other)


@pytest.mark.parametrize(
    "array", [np.arange(12).reshape(3, 4), np.linspace(0, 1, 8), objects("é", "中文", "🔥")]
)
def test_digest_is_of_the_content_and_not_of_the_memory(array):
    assert cache.digest(array) == cache.digest(array.copy())
    twice = np.repeat(array, 2, axis=0)[::2]  # the same values, not contiguous
    assert cache.digest(array) == cache.digest(twice)


def test_digest_of_text_that_is_no_valid_unicode():
    assert cache.digest("\ud800") != cache.digest("\ud801")
    assert cache.digest(objects("\ud800")) != cache.digest(objects("\ud801"))


def test_an_array_is_computed_once(folder):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(6, dtype="f4").reshape(2, 3)

    first, second = (cache.array("features", "k", compute) for _ in range(2))
    assert len(calls) == 1
    assert second.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    cache.array("features", "another", compute)
    cache.array("images", "k", compute)
    assert len(calls) == 3
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files == {"features/k.npy", "features/another.npy", "images/k.npy"}


@pytest.mark.parametrize("keep", [0, 40, 150])
def test_a_damaged_array_is_computed_again(folder, keep):
    cache.array("features", "k", lambda: np.arange(100))
    file = folder / "features" / "k.npy"
    file.write_bytes(file.read_bytes()[:keep])
    np.testing.assert_array_equal(cache.array("features", "k", lambda: np.ones(3)), np.ones(3))
    np.testing.assert_array_equal(np.load(file), np.ones(3))


def test_no_stored_pickle_is_opened(folder, tmp_path):
    class Bait:
        def __reduce__(self):
            return open, (str(tmp_path / "it ran"), "w")

    (folder / "features").mkdir(parents=True)
    np.save(folder / "features" / "k.npy", objects(Bait()), allow_pickle=True)
    assert cache.array("features", "k", lambda: np.ones(1)) == np.ones(1)
    assert not (tmp_path / "it ran").exists()
    np.load(folder / "features" / "k.npy", allow_pickle=False)


def test_a_failure_leaves_nothing(folder):
    def compute():
        raise KeyError("no data")

    with pytest.raises(KeyError):
        cache.array("features", "k", compute)
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.array("features", "k", lambda: objects("only numbers can be stored"))
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_where_nothing_can_be_stored_the_array_is_returned(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="TLBOOK_CACHE") as caught:
        result = cache.array("features", "k", lambda: np.ones(2))
    np.testing.assert_array_equal(result, np.ones(2))
    assert caught[0].filename == __file__


def test_a_full_disk_leaves_nothing_and_the_array_is_returned(folder):
    code = (
        "import resource, numpy as np; from tlbook.sources import cache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "print(cache.array('features', 'k', lambda: np.ones(100_000)).sum())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "100000.0\n"
    assert "TLBOOK_CACHE" in run.stderr
    assert not list((folder / "features").iterdir())


# --- what is not an array -----------------------------------------------------------------------


def stored(compute, load=None, save=None):
    """A text, kept as UTF-8."""
    return cache.stored(
        "texts/of/mine.txt",
        compute,
        save=save or (lambda stream, text: stream.write(text.encode())),
        load=load or (lambda path: path.read_text("utf-8")),
    )


def refuse(*_):
    raise AssertionError("there was no need to")


def test_a_value_is_saved_and_loaded_as_the_caller_says(folder):
    value = "".join(["迁", "移"])
    assert stored(lambda: value, load=refuse) is value
    assert (folder / "texts" / "of" / "mine.txt").read_bytes() == "迁移".encode()
    assert stored(refuse, save=refuse) == value
    assert stored(refuse, load=lambda path: path.name) == "mine.txt"


@pytest.mark.parametrize("error", [ValueError, EOFError, OSError, UnicodeDecodeError])
def test_what_cannot_be_loaded_is_computed_again(folder, error):
    def damaged(path):
        raise error("utf-8", b"\xff", 0, 1, "damaged") if error is UnicodeDecodeError else error

    stored(lambda: "first")
    assert stored(lambda: "second", load=damaged) == "second"
    assert stored(refuse) == "second"


def test_a_mistake_in_the_callers_code_is_not_taken_for_damage(folder):
    stored(lambda: "first")
    with pytest.raises(AttributeError):
        stored(refuse, load=lambda path: path.read_txt())
    with pytest.raises(AttributeError):
        cache.stored("new", lambda: 1, save=lambda stream, value: value.write(), load=refuse)
    assert stored(refuse) == "first"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["mine.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_saving_that_breaks_off_leaves_the_file_that_was_there(folder, error):
    def broken(stream, text):
        stream.write(b"half of i")
        stream.flush()
        raise error

    stored(lambda: "first")
    file = folder / "texts" / "of" / "mine.txt"
    with pytest.raises(error):
        stored(lambda: "second", load=lambda path: int(path.read_text()), save=broken)
    assert list(file.parent.iterdir()) == [file]
    assert file.read_text() == "first"


def test_a_full_disk_while_saving_is_told_and_the_value_returned(folder):
    def full(stream, text):
        stream.write(b"half of i")
        raise OSError(28, "No space left on device")

    with pytest.warns(UserWarning, match=r"No space left.*TLBOOK_CACHE"):
        assert stored(lambda: "first", save=full) == "first"
    assert not list((folder / "texts" / "of").iterdir())
    assert stored(lambda: "second") == "second"


# --- several processes, and killed ones ---------------------------------------------------------

WRITER = """
import sys, numpy as np
from tlbook.sources import cache

def compute():
    print("computing", flush=True)
    sys.stdin.readline()
    return np.full(5_000_000, float(sys.argv[1]))

cache.array("features", "k", compute)
"""


def writer(value: int) -> subprocess.Popen:
    """A process that is about to store an array of one value, and waits for a line to do so."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(value)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "computing\n"
    return process


def go(*processes: subprocess.Popen):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def test_two_processes_at_once_and_a_reader(folder):
    processes = [writer(value) for value in (1, 2)]
    go(*processes)
    file = folder / "features" / "k.npy"
    while any(process.poll() is None for process in processes):
        if file.exists():
            array = np.load(file, mmap_mode="r")
            assert array.shape == (5_000_000,)
            assert array[0] == array[-1] != 0, "a file in the making"
    assert [process.returncode for process in processes] == [0, 0]
    assert np.load(file)[0] in (1, 2)
    assert list(file.parent.iterdir()) == [file]


def test_a_killed_writer(folder):
    process = writer(1)
    go(process)
    parts = folder / "features"
    end = time.monotonic() + 30
    while not any(path.stat().st_size > 0 for path in parts.glob(".part-*/*")):
        assert time.monotonic() < end and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (parts / "k.npy").exists()
    np.testing.assert_array_equal(cache.array("features", "k", lambda: np.ones(3)), np.ones(3))
    assert np.load(parts / "k.npy").shape == (3,)


# Files that somebody else put there


class Exploit:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def packed(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000000,)"),
        header("(-1,)"),
        header("(" * 50),
        header("-" * 9000 + "1"),
        b"",
        packed(lambda stream: np.savez(stream, x=np.arange(2))),
        packed(lambda stream: zipfile.ZipFile(stream, "w").close()),
    ],
    ids=["huge", "negative", "open", "deep", "empty", "npz", "zip"],
)
def test_planted_files_are_computed_again(folder, content):
    (folder / "kind").mkdir(parents=True)
    (folder / "kind/key.npy").write_bytes(content)
    assert np.array_equal(cache.array("kind", "key", lambda: np.arange(3)), [0, 1, 2])
    assert np.array_equal(np.load(folder / "kind/key.npy"), [0, 1, 2])


def test_planted_pickles_run_nothing(folder, tmp_path):
    (folder / "kind").mkdir(parents=True)
    marker = tmp_path / "executed"
    exploit = Exploit(str(marker))
    for content in (
        pickle.dumps(exploit),
        packed(lambda stream: np.save(stream, np.array([exploit], object), allow_pickle=True)),
        packed(lambda stream: np.savez(stream, np.array([exploit], object))),
    ):
        (folder / "kind/key.npy").write_bytes(content)
        assert np.array_equal(cache.array("kind", "key", lambda: np.arange(3)), [0, 1, 2])
    assert not marker.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(folder):
    (folder / "kind").mkdir(parents=True)
    os.mkfifo(folder / "kind/key.npy")
    code = (
        "import numpy; from tlbook.sources import cache; "
        "cache.array('kind', 'key', lambda: numpy.ones(3))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (folder / "kind/key.npy").is_file()


def test_a_link_is_replaced_and_what_it_names_is_kept(folder, tmp_path):
    (folder / "kind").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    (folder / "kind/key.npy").symlink_to(tmp_path / "notes.txt")
    assert np.array_equal(cache.array("kind", "key", lambda: np.arange(3)), [0, 1, 2])
    assert not (folder / "kind/key.npy").is_symlink()
    assert (tmp_path / "notes.txt").read_text() == "mine"
