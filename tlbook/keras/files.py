"""Save Keras models, export them for TensorFlow Hub, and load them without running their code."""

import gzip
import json
import tarfile
import zipfile
from pathlib import Path

import h5py
import keras

from tlbook.keras.allowed import Refused, check_config, line, refused
from tlbook.keras.freezing import package_of
from tlbook.sources.cache import whole

# --- files --------------------------------------------------------------------------------------


def save(model, path: Path | str) -> None:
    """Save architecture and weights in one file, whole or not at all.

    The file says which layers are frozen. It does not keep the factors of :func:`freeze`.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.
    path : Path or str
        The file, which ends in ``.keras``, or in ``.h5``, which is legacy.

    Raises
    ------
    ValueError
        If the path ends in something else.
    """
    path = _model_file(path)
    with whole(path) as part:
        model.save(part)


def export(model, folder: Path | str) -> None:
    """Save a model as a SavedModel in TensorFlow Hub's format, whole or not at all.

    ``hub.load`` gives a function of a batch. ``hub.KerasLayer(..., trainable=True)`` trains the
    model further, except for what is frozen now. Models of Keras 3 become such a SavedModel as
    well; what Keras 3 itself exports can only infer. Regularization that layers ask for is not
    exported.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.
    folder : Path or str
        The new folder.

    Raises
    ------
    FileExistsError
        If the folder exists.
    TypeError
        If it is not a model of ``keras`` or ``tf_keras``.
    """
    from tlbook.sources import savedmodels

    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; export into a new folder")
    package_of(model)
    savedmodels.save(savedmodels.CallableModel(model), folder)


def archive(folder: Path | str, file: Path | str) -> None:
    """Pack a SavedModel as TensorFlow Hub serves it: a ``.tar.gz`` with the files at its root.

    Equal files give an equal archive, byte for byte.

    Parameters
    ----------
    folder : Path or str
        The SavedModel.
    file : Path or str
        The archive, which ends in ``.tar.gz``.

    Raises
    ------
    ValueError
        If the folder is not a SavedModel, or the archive's name ends in something else.
    """
    folder, file = Path(folder), Path(file)
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(f"{folder} is not a SavedModel: it has no saved_model.pb")
    if not file.name.endswith(".tar.gz"):
        raise ValueError(f"{file.name}: the archive's name ends in .tar.gz")

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0  # nothing of this machine or of the moment
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    with (
        whole(file) as part,
        part.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)


def load(path: Path | str):
    """Load a model that :func:`save` or Keras itself saved.

    It is loaded by the Keras, 2 or 3, that saved it. It is not compiled, because the source task's
    optimizer has no part in the target task.

    Parameters
    ----------
    path : Path or str
        The file, which ends in ``.keras`` or ``.h5``.

    Returns
    -------
    keras.Model or tf_keras.Model
        A model of ``keras``, or of ``tf_keras`` for a file that Keras 2 wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a Keras model, or asks for more than the layers of Keras that compute with
        numbers and inline vocabularies. Other layers can be code, or can read or write files.
        Keras's own ``load_model`` loads such a file, if you trust its author.
    """
    path = _model_file(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        config, version = _unpacked(path)
    except Refused:
        raise
    except Exception as error:  # of zipfile, h5py or json; RecursionError of one that is too deep
        raise ValueError(f"{path} is not a whole Keras model: {line(error)}") from error
    check_config(config, path)
    package = keras
    if str(version).startswith("2"):
        import tf_keras as package
    try:
        model = package.models.load_model(path, compile=False, safe_mode=True)
        package_of(model)  # tf_keras gives a configuration that it does not understand back
    except Exception as error:  # Keras raises many kinds for one that makes no sense
        raise ValueError(f"{path} cannot be loaded as a Keras model: {line(error)}") from error
    return model


def _model_file(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path.name}: a model file ends in .keras, or in .h5, which is legacy")
    return path


# What a file holds


def _unpacked(path: Path) -> tuple[object, object]:
    """Configuration and Keras version of a model file, once its weights were found to be its own.

    The values are read just as Keras itself reads them.
    """
    size = path.stat().st_size
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            _check_weights(file, size, path)
            return json.loads(file.attrs["model_config"]), file.attrs.get("keras_version", "3")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # Keras also takes weights in other formats; it writes none of them unless asked to
            if name not in _MEMBERS and (".." in name or not name.startswith("assets/")):
                raise refused(path, f"has the member {name!r}, which Keras does not write")
        if sum(member.file_size for member in archive.infolist()) > EXPANSION * size:
            raise refused(path, f"unpacks to more than {EXPANSION} times its size")
        with archive.open("model.weights.h5") as stream, h5py.File(stream) as file:
            _check_weights(file, archive.getinfo("model.weights.h5").file_size, path)
        config = json.loads(archive.read("config.json"))
        if isinstance(config, dict):
            config.pop("compile_config", None)  # as load_model does, with compile=False
        return config, json.loads(archive.read("metadata.json"))["keras_version"]


def _check_weights(file: h5py.File, size: int, path: Path) -> None:
    """Refuse weights that lie in another file of this machine, or that are said to be huge.

    HDF5 knows links into other files, data sets whose bytes are in any file, and data sets without
    bytes.
    """

    links = []
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise refused(path, f"has the link {name!r} in place of weights")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise refused(path, f"takes the weights {name!r} from another file")
            if item.nbytes > EXPANSION * size:
                raise refused(path, f"says that the weights {name!r} have {item.nbytes} bytes")


#: The members of a ``.keras`` file, beside those in ``assets/``.
_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
EXPANSION = 100  # no honest file is more than a hundred times smaller than its content
