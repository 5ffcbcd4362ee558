"""What in a TensorFlow or Keras file may act on the machine: looked for before anything of it is loaded or run."""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
from protocol import Failed

FILES_AND_CODE = re.compile(
    r"\w*PyFunc\w*|ReadFile|WriteFile|MatchingFiles|PrintV2|\w*ReaderV?2?|\w*RecordDataset\w*|TextLineDataset\w*|"
    r"SqlDataset|\w*CSVDataset\w*|LMDBDataset\w*|\w*DataService\w*|\w*SaveDataset\w*|\w*LoadDataset\w*|\w*Snapshot\w*|"
    r"CacheDataset\w*|Save|SaveSlices|SaveV2|MergeV2Checkpoints|\w*Summary\w*Writer\w*|Write\w*Summary|"
    r"InitializeTableFromTextFile\w*|DebugIdentity\w*|DebugNumericSummary\w*|\w*Rpc\w*|ServerHandle\w*"
)
"""Names of TensorFlow operators that read or write files, call Python, or talk to other machines."""

SAVER = re.compile(r"__inference__traced_(save|restore)_\d+")
"""What tf.saved_model.save calls the functions of its own saver, which only saving a model runs."""

CODE_LAYERS = ("Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
"""Classes of a Keras file that hold code, or load another file that does."""

FILE_KEYS = ("vocabulary", "idf_weights", "filepath", "file_path")
MAX_CONFIG_BYTES = 256 << 20


def check_graph(where: str, graph_def: Any) -> None:
    """Raise Failed for a GraphDef with an operator that touches files or calls Python, in it or in its functions."""
    saver = [node.name for node in graph_def.node if node.op in ("SaveV2", "MergeV2Checkpoints")]
    _check_nodes(where, (node for node in graph_def.node if node.name not in saver))
    for function in graph_def.library.function:
        if not SAVER.fullmatch(function.signature.name):
            _check_nodes(where, function.node_def)
        _check_calls(where, function)


def _check_nodes(where: str, nodes: Iterable[Any]) -> None:
    for node in nodes:
        if FILES_AND_CODE.fullmatch(node.op):
            raise Failed(
                f"{where}: operator {node.op} at node '{node.name}' touches files or runs code, and is not run here",
                "export the model without it: keep reading, writing and Python code outside the model",
            )


def _check_calls(where: str, function: Any) -> None:
    """Raise Failed where a function that is not the saver's calls one that is named like the saver's."""
    if SAVER.fullmatch(function.signature.name):
        return
    for node in function.node_def:
        for attribute in node.attr.values():
            if attribute.HasField("func") and SAVER.fullmatch(attribute.func.name):
                raise Failed(f"{where}: node '{node.name}' saves files when the model runs", "export the model again")


def check_keras(path: Path, trusted: bool) -> None:
    """Raise Failed for a Keras file whose layers hold code or name files, unless the user trusts it.

    Raises BadInput for one without the model's configuration (weights only), or with links to other files.
    """
    if zipfile.is_zipfile(path):
        config = _config_of_archive(path)
    else:
        _refuse_links(path)
        config = _config_of_hdf5(path)
    for owner in _objects(config):
        _check_object(path, owner, trusted)


def _config_of_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("config.json")
        if entry.file_size > MAX_CONFIG_BYTES:
            raise Failed(f"{path}: config.json has {entry.file_size} bytes", "export the model again")
        return _parse(path, archive.read(entry))


def _config_of_hdf5(path: Path) -> Any:
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise Failed(
            f"{path}: this HDF5 file holds weights and no model",
            "save the whole model: model.save('model.keras')",
        )
    return _parse(path, config)


def _parse(path: Path, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise Failed(f"{path}: the model's configuration is no JSON: {exc}", "save the model again") from exc


def _refuse_links(path: Path) -> None:
    """Raise Failed for an HDF5 file that takes members or data from other files."""
    with h5py.File(path, "r") as file:
        for group, name, member in _members(file):
            outside = isinstance(group.get(name, getlink=True), h5py.ExternalLink)
            if outside or (isinstance(member, h5py.Dataset) and member.external):
                raise Failed(f"{path}: '{group.name}/{name}' lies in another file", "save the whole model in one file")


def _members(group: Any) -> Iterator[tuple[Any, str, Any]]:
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            yield group, name, None
            continue
        member = group[name]
        yield group, name, member
        if isinstance(member, h5py.Group):
            yield from _members(member)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _check_object(path: Path, owner: Mapping[str, Any], trusted: bool) -> None:
    kind, module = owner.get("class_name"), owner.get("module")
    config = owner.get("config")
    name = config.get("name", kind) if isinstance(config, dict) else kind
    if kind in CODE_LAYERS and not trusted:
        raise Failed(
            f"{path}: layer '{name}' ({kind}) holds code, which would run when the model is loaded",
            "replace it by a layer of Keras; or, where you trust who made the file, add --trust-pickle",
        )
    if isinstance(module, str) and isinstance(kind, str) and _is_foreign(module, kind):
        raise Failed(
            f"{path}: '{name}' is '{kind}' of the module '{module}', which is not Keras",
            "give the model as a SavedModel (model.export('folder')), which needs no code of yours",
        )
    if isinstance(config, dict) and not trusted:
        for key in FILE_KEYS:
            if isinstance(config.get(key), str):
                raise Failed(
                    f"{path}: layer '{name}' reads the file '{config[key]}' when the model is loaded",
                    "save the model with the vocabulary in it; or, where you trust the file, add --trust-pickle",
                )


def _is_foreign(module: str, kind: str) -> bool:
    """Return whether a class is looked up outside Keras; plain types of Python are not, but its functions are."""
    if module == "builtins":
        return kind in ("function", "type")
    return module.split(".")[0] not in ("", "keras", "tf_keras")
