"""Find out what the graph of a SavedModel would do before TensorFlow loads it.

A SavedModel is a program of TensorFlow's operations, and some of them write files, read them, or
call Python. Its functions run when it is loaded (those that fill its tables) and when it is called.
:func:`check` reads the program without running it. It lets only those operations pass that turn
tensors into tensors or keep variables, tables and random states; ``operations.toml`` lists them.
Three cases are looked at more closely:

- The operations that save and restore checkpoints may stand in the two functions that TensorFlow
  writes into each SavedModel for that. No other function may call these two.
- Tables may be filled from files, if these are the SavedModel's own, in its folder ``assets``.
- SavedModels of TensorFlow 1 are refused, since their graph runs as a whole when it is loaded.

The check guards against programs that do what they should not, not against faults inside
TensorFlow's operations.
"""

import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

#: Operations of the saver, and the functions that TensorFlow itself puts them into.
SAVER = {"MergeV2Checkpoints", "RestoreV2", "SaveV2"}
SAVERS = re.compile(r"__inference__traced_(save|restore)_\d+")
FROM_FILE = "InitializeTableFromTextFileV2"
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


class GraphError(ValueError):
    """Report why a SavedModel is not loaded, and how to load it all the same."""


@functools.cache
def operations() -> frozenset[str]:
    """Return the operations that any function of a SavedModel may use.

    Returns
    -------
    frozenset of str
        Names of the operations, from ``operations.toml``.
    """
    table = tomllib.loads(Path(__file__).with_name("operations.toml").read_text(encoding="utf-8"))
    lists = [table["stateless"], *table["stateful"].values()]
    return frozenset(name for names in lists for name in names.split())


def check(folder: Path) -> None:
    """Refuse a SavedModel whose graph does more than compute.

    Parameters
    ----------
    folder : pathlib.Path
        The folder with its ``saved_model.pb``.

    Raises
    ------
    GraphError
        If the SavedModel is damaged or of TensorFlow 1, or uses an operation that is not listed or
        a file that is not its own.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise GraphError(f"{folder} is not a whole SavedModel: {error}") from error
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise _refused(folder, "is a SavedModel of TensorFlow 1, which runs when it is loaded")
    try:
        _check(folder, saved.meta_graphs[0])
    except (IndexError, KeyError, RecursionError) as error:  # references that lead nowhere
        raise GraphError(f"{folder} is not a whole SavedModel: {error!r}") from error


def _check(folder: Path, graph) -> None:
    for asset in graph.asset_file_def:
        if not _is_asset(folder, asset.filename):
            raise _refused(folder, f"has the asset {asset.filename!r}, which is not inside it")
    program = _Program(graph)
    if len(program.functions) < len(graph.graph_def.library.function):
        raise _refused(folder, "has two functions of one name")
    for function, node in program.nodes():
        if node.op in SAVER:
            if not program.is_saver(function):
                raise _refused(folder, f"uses the operation {node.op!r} outside of its own saver")
        elif node.op == FROM_FILE:
            if not program.is_asset(function, node.input[1], ()):
                raise _refused(folder, "fills a table from a file that is not one of its assets")
        elif node.op not in operations():
            raise _refused(
                folder,
                f"uses the operation {node.op!r} of TensorFlow, which is not known to do no more "
                "than compute",
            )
        if any(value.placeholder for value in node.attr.values()):
            raise _refused(folder, f"leaves open what its operation {node.op!r} does")


def _refused(folder: Path, what: str) -> GraphError:
    return GraphError(
        f"The SavedModel {folder} {what}. If you trust its author, load it with "
        "tf.saved_model.load yourself."
    )


def _is_asset(folder: Path, name: str) -> bool:
    assets = folder.resolve() / "assets"
    return bool(name) and (assets / name).resolve().is_relative_to(assets)


class _Program:
    """The functions of a graph, who calls them, and with what."""

    def __init__(self, graph):
        self.main = graph.graph_def.node
        self.functions = {f.signature.name: f for f in graph.graph_def.library.function}
        self.objects = graph.object_graph_def.nodes
        self.bound = {
            name: list(function.bound_inputs)
            for name, function in graph.object_graph_def.concrete_functions.items()
        }
        # Those that Python can call: with inputs of its own, then those that are bound
        self.public = set(self.bound)
        for item in self.objects:
            self.public.update(item.function.concrete_functions)
            self.public.add(item.bare_concrete_function.concrete_function_name)
        self.callers: dict[str, list] = {}
        for name, node in self.nodes():
            for called in _called(node):
                if name is not None:  # Python runs functions only, never the graph around them
                    self.callers.setdefault(called, []).append((name, node))

    def nodes(self) -> Iterator[tuple[str | None, object]]:
        """Each node with the name of its function, None for the graph around them."""
        yield from ((None, node) for node in self.main)
        for name, function in self.functions.items():
            yield from ((name, node) for node in function.node_def)

    def is_saver(self, function: str | None) -> bool:
        """Whether a function is one that TensorFlow wrote to save or restore, called by none."""
        return (
            function is not None
            and SAVERS.fullmatch(function) is not None
            and function not in self.public
            and function not in self.callers
            and not self._is_alternative(function)
        )

    def _is_alternative(self, function: str) -> bool:
        """Whether TensorFlow may run a function in place of another that is called."""
        return any(key.startswith("api_") for key in self.functions[function].attr)

    def is_asset(self, function: str | None, tensor: str, seen: tuple) -> bool:
        """Whether a tensor in a function is the path of an asset, wherever that is called."""
        if function is None or (function, tensor) in seen or self._is_alternative(function):
            return False
        seen = (*seen, (function, tensor))
        name = tensor.split(":")[0]
        inputs = [argument.name for argument in self.functions[function].signature.input_arg]
        made = [node for node in self.functions[function].node_def if node.name == name]
        if len(made) + inputs.count(name) != 1:
            return False
        if made:
            return made[0].op == "Identity" and self.is_asset(function, made[0].input[0], seen)
        position = inputs.index(name)
        if function in self.public:
            bound = self.bound.get(function, [])
            index = position - (len(inputs) - len(bound))
            if index < 0 or self.objects[bound[index]].WhichOneof("kind") != "asset":
                return False
        return all(
            node.op in CALLS and self.is_asset(caller, node.input[position], seen)
            for caller, node in self.callers.get(function, ())
        )


def _called(node) -> Iterator[str]:
    """Names of the functions that a node is given."""
    for value in node.attr.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
