"""Hostile SavedModels: what their graphs would do, and that it is refused before it is done."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub
import tf_keras
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session

import tlbook.keras as tk
from tests import loopback
from tlbook.sources import graphs, hubs, ports, savedmodels
from tlbook.sources.pretrained import load

RAW = tf.raw_ops
TEXTS = [tf.TensorSpec([None], tf.string)]


class Lengths(savedmodels.Reusable):
    """An encoder of texts: twice their lengths, and whatever ``also`` does with them."""

    def __init__(self, also=lambda texts: None):
        super().__init__([tf.Variable([[1.0, 1.0]], name="factor")])
        self.also = also

    @tf.function(input_signature=TEXTS)
    def __call__(self, texts):
        self.also(texts)
        return tf.cast(tf.strings.length(texts), tf.float32)[:, None] @ self.variables[0]


def saved(folder, also=lambda texts: None):
    savedmodels.save(Lengths(also), folder)
    return folder


def edited(folder, change):
    """A SavedModel with another ``saved_model.pb``."""
    proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(proto)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    return folder


def refusal(folder):
    """The message, the same in all ways to load it."""
    messages = set()
    for way in hubs.folder, load, lambda folder: tk.hub_classifier(folder, 2):
        with pytest.raises(ValueError) as caught:
            way(folder)
        messages.add(str(caught.value))
    (message,) = messages
    assert str(folder) in message and "\n" not in message
    return message


# Operations


def branch(do):
    """``do`` inside of a function, of a loop, of a branch."""

    @tf.function
    def inner(texts):
        do(texts)
        return tf.size(texts)

    def body(i, texts):
        return i + tf.cond(tf.size(texts) > 0, lambda: inner(texts), lambda: 1), texts

    return lambda texts: tf.while_loop(lambda i, _: i < 1, body, (0, texts))


@pytest.mark.parametrize("wrap", [lambda do: do, branch], ids=["plain", "nested"])
def test_no_file_is_written(tmp_path, wrap):
    marker = str(tmp_path / "written")
    folder = saved(tmp_path / "bad", wrap(lambda texts: tf.io.write_file(marker, texts[0])))
    assert "uses the operation 'WriteFile'" in refusal(folder)
    assert not (tmp_path / "written").exists()
    tensorflow_hub.load(str(folder))(tf.constant(["of a stranger"]))
    assert (tmp_path / "written").read_text() == "of a stranger"  # it was dangerous


OPERATIONS = {
    "ReadFile": lambda texts: tf.io.read_file(texts[0]),
    "MatchingFiles": lambda texts: tf.io.matching_files("/home/*/.ssh/*"),
    "PyFunc": lambda texts: tf.numpy_function(len, [texts], tf.int64),
    "EagerPyFunc": lambda texts: tf.py_function(lambda x: x, [texts], tf.string),
    "PyFuncStateless": lambda texts: RAW.PyFuncStateless(input=[texts], token="t", Tout=["string"]),
    "PrintV2": lambda texts: tf.print(texts, output_stream="file:///tmp/never-written"),
    "DebugIdentityV3": lambda texts: RAW.DebugIdentityV3(input=texts, debug_urls=["file:///tmp/x"]),
    "ImmutableConst": lambda texts: RAW.ImmutableConst(
        dtype=tf.uint8, shape=[9], memory_region_name="/etc/hostname"
    ),
    "DecodeProtoV2": lambda texts: tf.io.decode_proto(
        texts, "m", ["f"], [tf.string], descriptor_source="/etc/hostname"
    ),
    "GenerateVocabRemapping": lambda texts: RAW.GenerateVocabRemapping(
        new_vocab_file=texts[0], old_vocab_file=texts[0], new_vocab_offset=0, num_new_vocab=1
    ),
    "TextLineDataset": lambda texts: RAW.TextLineDataset(
        filenames=texts, compression_type="", buffer_size=0
    ),
    "TensorSliceDataset": lambda texts: tf.data.Dataset.from_tensor_slices(texts).reduce(
        0, lambda n, _: n + 1
    ),
    "WholeFileReaderV2": lambda texts: RAW.WholeFileReaderV2(),
    "SummaryWriter": lambda texts: RAW.SummaryWriter(),
    "LoadAndRemapMatrix": lambda texts: RAW.LoadAndRemapMatrix(
        ckpt_path="/x",
        old_tensor_name="x",
        row_remapping=[0],
        col_remapping=[0],
        initializing_values=[],
        num_rows=1,
        num_cols=1,
    ),
    "Abort": lambda texts: RAW.Abort(error_msg="gone"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_that_do_more_than_compute(tmp_path, name):
    message = refusal(saved(tmp_path / "bad", OPERATIONS[name]))
    assert f"uses the operation {name!r}" in message and "tf.saved_model.load" in message


def test_operations_that_nobody_knows(tmp_path):
    """Of a library of operations that a package would bring, or of a later TensorFlow."""

    def change(proto):
        for function in proto.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "StringLength":
                    node.op = "Vendor>Special"

    assert "uses the operation 'Vendor>Special'" in refusal(edited(saved(tmp_path / "x"), change))


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("SaveV2", lambda texts: RAW.SaveV2(
            prefix="/tmp/x", tensor_names=["x"], shape_and_slices=[""], tensors=[texts]
        )),
        ("RestoreV2", lambda texts: RAW.RestoreV2(
            prefix="/tmp/x", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.string]
        )),
        ("MergeV2Checkpoints", lambda texts: RAW.MergeV2Checkpoints(
            checkpoint_prefixes=texts, destination_prefix="/tmp/x"
        )),
    ],
)  # fmt: skip
def test_the_saver_is_tensorflows_own(tmp_path, name, do):
    assert f"{name!r} outside of its own saver" in refusal(saved(tmp_path / "bad", do))


@pytest.mark.parametrize("how", ["called", "public", "bare", "alternative"])
def test_nobody_else_calls_the_saver(tmp_path, how):
    """Not even a function that only looks like TensorFlow's: it would write where it is told."""
    folder = saved(tmp_path / "bad")

    def change(proto):
        (graph,) = proto.meta_graphs
        library = graph.graph_def.library.function
        (saver,) = [f for f in library if f.signature.name.startswith("__inference__traced_save")]
        name = saver.signature.name
        if how == "called":
            (call,) = [f for f in library if f.signature.name.startswith("__inference___call__")]
            node = call.node_def.add(name="more", op="StatefulPartitionedCall")
            node.attr["f"].func.name = name
        elif how == "public":
            graph.object_graph_def.concrete_functions[name].SetInParent()
        elif how == "bare":
            node = graph.object_graph_def.nodes.add()
            node.bare_concrete_function.concrete_function_name = name
        else:
            saver.attr["api_implements"].s = b"lengths"

    assert "outside of its own saver" in refusal(edited(folder, change))


def test_functions_are_what_they_seem(tmp_path):
    folder = saved(tmp_path / "twice")

    def twice(proto):
        library = proto.meta_graphs[0].graph_def.library
        library.function.add().CopyFrom(library.function[0])

    assert "two functions of one name" in refusal(edited(folder, twice))
    folder = saved(tmp_path / "open")

    def leave_open(proto):
        for function in proto.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if "f" in node.attr:
                    node.attr["f"].placeholder = "given_later"

    assert "leaves open" in refusal(edited(folder, leave_open))


# Tables from files


class Words(savedmodels.Reusable):
    """A text to the line of a vocabulary file on which it stands."""

    def __init__(self, file):
        super().__init__([])
        lines, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
        content = tf.lookup.TextFileInitializer(str(file), tf.string, whole, tf.int64, lines)
        self.table = tf.lookup.StaticHashTable(content, -1)

    @tf.function(input_signature=TEXTS)
    def __call__(self, texts):
        return tf.cast(self.table.lookup(texts), tf.float32)[:, None]


@pytest.fixture
def words(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("one\ntwo\n")
    savedmodels.save(Words(tmp_path / "vocabulary.txt"), tmp_path / "words")
    (tmp_path / "vocabulary.txt").unlink()
    return tmp_path / "words"


def test_tables_are_filled_from_assets(words):
    np.testing.assert_array_equal(load(words).embed(np.array(["two", "x"], object)), [[1], [-1]])


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "", "..", "a/../../../x"])
def test_assets_are_inside(words, name):
    def change(proto):
        proto.meta_graphs[0].asset_file_def[0].filename = name

    assert f"has the asset {name!r}, which is not inside it" in refusal(edited(words, change))


def test_assets_are_no_links_to_the_outside(words, tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    (words / "assets/vocabulary.txt").unlink()
    (words / "assets/vocabulary.txt").symlink_to(tmp_path / "secret")
    assert "has the asset 'vocabulary.txt', which is not inside it" in refusal(words)
    shutil.rmtree(words / "assets")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/vocabulary.txt").write_text("secret\n")
    (words / "assets").symlink_to(tmp_path / "elsewhere")
    assert "which is not inside it" in refusal(words)


@pytest.mark.parametrize("how", ["constant", "computed", "unbound", "bound", "called", "loop"])
def test_tables_are_filled_from_nothing_else(words, how):
    """Whatever way the path of another file takes to the operation."""

    def change(proto):
        (graph,) = proto.meta_graphs
        library = graph.graph_def.library.function
        (fill,) = [f for f in library if f.signature.name.startswith("__inference__initializer")]
        (node,) = [n for n in fill.node_def if n.op == graphs.FROM_FILE]
        name = fill.signature.name
        function = graph.object_graph_def.concrete_functions[name]
        if how in ("constant", "computed"):
            path = fill.node_def.add(name="path", op="Const")
            path.attr["dtype"].type = tf.string.as_datatype_enum
            path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/hostname"))
            node.input[1] = "path:output:0"
            if how == "computed":
                joined = fill.node_def.add(name="joined", op="StringJoin", input=[node.input[1]])
                joined.attr["N"].i = 1
                node.input[1] = "joined:output:0"
        elif how == "unbound":
            del function.bound_inputs[1]  # so that the path is what Python gives
        elif how == "bound":
            function.bound_inputs[0] = function.bound_inputs[1]
        elif how == "called":
            caller = library.add()
            caller.signature.name = "caller"
            path = caller.node_def.add(name="path", op="Const")
            path.attr["dtype"].type = tf.string.as_datatype_enum
            path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/hostname"))
            call = caller.node_def.add(name="call", op="StatefulPartitionedCall")
            call.input.extend(["path:output:0", "path:output:0"])
            call.attr["f"].func.name = name
        else:
            again = fill.node_def.add(name="again", op="Identity", input=["again:output:0"])
            node.input[1] = f"{again.name}:output:0"

    assert "not one of its assets" in refusal(edited(words, change))


def test_paths_may_pass_through_functions(words):
    """As other versions of TensorFlow write it."""

    def change(proto):
        library = proto.meta_graphs[0].graph_def.library.function
        (fill,) = [f for f in library if f.signature.name.startswith("__inference__initializer")]
        inner = library.add()
        inner.CopyFrom(fill)
        inner.signature.name = "inner"
        (node,) = [n for n in fill.node_def if n.op == graphs.FROM_FILE]
        node.op = "StatefulPartitionedCall"
        path = fill.node_def.add(
            name="path", op="Identity", input=[fill.signature.input_arg[0].name]
        )
        path.attr["T"].type = tf.string.as_datatype_enum
        node.input[:] = ["path:output:0", fill.signature.input_arg[1].name]
        node.attr["f"].func.name = "inner"

    graphs.check(edited(words, change))


# Whole folders


def test_saved_models_of_tensorflow_1(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        texts = tf.compat.v1.placeholder(tf.string, [None])
        write = tf.io.write_file(str(tmp_path / "written"), "of a stranger")
        tf.compat.v1.saved_model.simple_save(
            session,
            str(tmp_path / "old"),
            {"texts": texts},
            {"lengths": tf.strings.length(texts)},
            legacy_init_op=write,
        )
    assert "TensorFlow 1, which runs when it is loaded" in refusal(tmp_path / "old")
    assert not (tmp_path / "written").exists()
    tensorflow_hub.load(str(tmp_path / "old"))
    assert (tmp_path / "written").exists()  # it was dangerous


def test_damaged_saved_models(tmp_path):
    folder = saved(tmp_path / "half")
    whole = (folder / "saved_model.pb").read_bytes()
    for content in (whole[: len(whole) // 2], b"\xff" * 99, b""):
        (folder / "saved_model.pb").write_bytes(content)
        assert ("not a whole SavedModel" if content else "TensorFlow 1") in refusal(folder)

    def change(proto):
        for function in proto.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "StringLength":
                    node.op = graphs.FROM_FILE
                    del node.input[:]

    assert "not a whole SavedModel" in refusal(edited(saved(tmp_path / "empty"), change))


def test_what_lies_beside_the_graph_is_not_run(tmp_path):
    """Files that other tools read: TensorFlow's loader takes none of them for a program."""
    marker = tmp_path / "written"
    bad = saved(tmp_path / "bad", lambda texts: tf.io.write_file(str(marker), texts[0]))
    folder = saved(tmp_path / "good")
    content = (bad / "saved_model.pb").read_bytes()
    (folder / "assets.extra").mkdir()
    names = ("fingerprint.pb", "keras_metadata.pb", "assets.extra/tf_serving_warmup_requests")
    for name in (*names, "saved_model.pbtxt", "saved_model.cpb"):
        (folder / name).write_bytes(content)
    np.testing.assert_array_equal(load(folder).embed(np.array(["abc"], object)), [[3, 3]])
    assert not marker.exists()


def test_what_the_hub_sends_is_checked_and_not_kept(tmp_path, monkeypatch):
    marker = tmp_path / "written"
    bad = saved(tmp_path / "bad", lambda texts: tf.io.write_file(str(marker), texts[0]))
    with loopback.TensorFlowHub() as hub, monkeypatch.context() as patched:
        patched.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
        hub.publish("/someone/bad/1", bad)
        for _ in range(2):
            with pytest.raises(ValueError, match="uses the operation 'WriteFile'"):
                load(f"{hub.url}/someone/bad/1")
            assert not list((tmp_path / "cache").glob("*/saved_model.pb"))
    # one that another program left in the hub's cache
    url = "https://127.0.0.1:9/someone/bad/2"
    place = tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setenv("TFHUB_CACHE_DIR", str(place))
        shutil.copytree(bad, place / hubs.hashlib.sha1(url.encode()).hexdigest())
        with pytest.raises(ValueError, match="uses the operation 'WriteFile'"):
            load(url)
    assert not marker.exists()


@pytest.mark.parametrize("handle", ["glove-50d", "use-multilingual", "mobilenet-v2-tf"])
def test_a_packaged_model_is_not_believed_either(handle, tmp_path, monkeypatch):
    """Somebody may have put another one into the cache."""
    bad = saved(tmp_path / "bad", lambda texts: tf.io.write_file("never", texts[0]))
    monkeypatch.setattr(ports, "path", lambda model: bad)
    with pytest.raises(ValueError, match="'WriteFile'"):
        load(handle)


@pytest.mark.parametrize(
    "handle", ["glove-50d", "use-multilingual", "mobilenet-v2-tf", "basic-pitch"]
)
def test_packaged_models_pass(handle):
    graphs.check(hubs.folder(handle))


def test_layers_of_all_kinds_pass(tmp_path):
    layers = tf_keras.layers
    table = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    stack = [
        tf_keras.Input((), dtype=tf.string),
        table,
        layers.Embedding(5, 4),
        layers.SimpleRNN(4, return_sequences=True),
        layers.Conv1D(3, 2),
        layers.Dropout(0.1),
        layers.BatchNormalization(),
        layers.GlobalMaxPooling1D(),
        layers.Dense(2),
    ]
    model = tf_keras.Sequential(stack)
    tf_keras.models.save_model(model, tmp_path / "keras")  # with functions for its gradients
    graphs.check(tmp_path / "keras")
    tk.export(model, tmp_path / "ours")
    graphs.check(tmp_path / "ours")
    encoder = load(tmp_path / "ours")
    texts = np.array(["a b", "b"], object)
    np.testing.assert_allclose(encoder.embed(texts), model(tf.constant(texts)), atol=1e-6)


# The list


def registry():
    import tensorflow_text  # noqa: F401

    known = op_def_pb2.OpList()
    known.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {operation.name: operation for operation in known.op}


def test_the_list_says_what_tensorflows_registry_says():
    known = registry()
    table = graphs.tomllib.loads(
        graphs.Path(graphs.__file__).with_name("operations.toml").read_text()
    )
    stateless = table["stateless"].split()
    stateful = [name for names in table["stateful"].values() for name in names.split()]
    assert len(stateless + stateful) == len(graphs.operations()) > 800
    assert not [name for name in stateless if known[name].is_stateful]
    assert all(known[name].is_stateful for name in stateful)
    # the words by which an operation names a file, an address, a process or a debugger
    reach = re.compile(
        r"file|path|dir$|url|address|memory_region|descriptor|debug_(urls|ops)|^token$|hostname|server"
    )
    allowed = {
        ("CTCBeamSearchDecoder", "top_paths"),
    }
    for name in graphs.operations():
        names = [x.name for x in (*known[name].attr, *known[name].input_arg)]
        assert not [x for x in names if reach.search(x) and (name, x) not in allowed], name
