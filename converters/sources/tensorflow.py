"""TensorFlow and Keras: SavedModel folders, `.keras`, `.h5` and frozen graphs, read by tf2onnx in a child process.

What may be in them, such as layers with code or operators that touch files, is checked there before anything runs.
"""

import zipfile
from pathlib import Path

from converters.sources import child
from converters.sources.archives import check_archive
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput

SCRIPT = "export_tensorflow.py"
ENVIRONMENTS = ("tensorflow",)
SAVED_MODEL = "saved_model.pb"
HDF5 = b"\x89HDF\r\n\x1a\n"
KERAS_MEMBERS = {"config.json", "metadata.json"}
HEAD_BYTES = 4096


def matches(path: Path) -> bool:
    """Return whether `path` is a SavedModel folder, a Keras archive, an HDF5 file, or a frozen graph."""
    if path.is_dir():
        return (path / SAVED_MODEL).is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(HDF5) or _starts_a_saved_model(path, head) or _starts_a_graph(head):
        return True
    return head.startswith(b"PK") and _is_keras(path)


def load(path: Path, options: Options) -> Imported:
    """Import a TensorFlow or Keras model.

    Raises BadInput for a file that is none, is damaged or runs code, GateFailed that names the operators without a form
    in ONNX, MissingExtra where there is no TensorFlow.
    """
    if not matches(path):
        raise BadInput(
            f"{path}: this is not a TensorFlow model",
            "give a SavedModel folder, a .keras or .h5 file, or a frozen graph .pb; or leave out --source",
        )
    folder = path.parent if path.is_file() and path.name == SAVED_MODEL else path
    if folder.is_dir():
        _require_variables(folder)
    elif zipfile.is_zipfile(folder):
        check_archive(folder)
    return child.export("tensorflow", SCRIPT, ENVIRONMENTS, folder, options)


def _require_variables(folder: Path) -> None:
    """Raise BadInput for variables of which one file is here and the other is not: a copy that was cut short."""
    variables = folder / "variables"
    if not variables.is_dir():
        return
    index = variables / "variables.index"
    shards = list(variables.glob("variables.data-*"))
    if index.is_file() != bool(shards):
        missing = "variables.data-*" if index.is_file() else "variables.index"
        raise BadInput(f"{folder}: the file variables/{missing} is missing", "copy the whole SavedModel folder again")


def _starts_a_saved_model(path: Path, head: bytes) -> bool:
    """Return whether `path` is the file of a SavedModel: schema version 1, then a MetaGraphDef."""
    return path.name == SAVED_MODEL and head.startswith(b"\x08\x01\x12")


def _starts_a_graph(head: bytes) -> bool:
    """Return whether `head` starts a GraphDef: a NodeDef (field 1) that starts with its name (1) and operator (2)."""
    node, start = _field(head, 0, 1)
    name, name_start = _field(head, start, 1)
    operator, _ = _field(head, name_start + len(name), 2)
    return bool(node) and _is_word(name) and _is_word(operator)


def _field(data: bytes, place: int, number: int) -> tuple[bytes, int]:
    """Return the content of the length-delimited protobuf field `number` at `place`, and where the content starts.

    What the end of `data` cuts off is left out; where another field is, the content is empty.
    """
    if place >= len(data) or data[place] != (number << 3 | 2):
        return b"", len(data)
    length, shift, place = 0, 0, place + 1
    while place < len(data):
        byte = data[place]
        length |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            break
    return data[place : place + length], place


def _is_word(data: bytes) -> bool:
    return bool(data) and data.isascii() and data.decode("ascii").isprintable()


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) >= KERAS_MEMBERS
    except (zipfile.BadZipFile, OSError):
        return False
