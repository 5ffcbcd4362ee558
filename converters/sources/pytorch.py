"""PyTorch models: `.pt2`, TorchScript, a state_dict with the function that makes its module, or `module:function`.

What a file is, is told from its content: all of them are zip archives or pickles, under any of the usual suffixes. The
work is done by `exporters/export_torch.py`, where torch is installed; what the files may hold is checked there, with
torch's own reader, by `exporters/torch_safety.py`.
"""

import re
import zipfile
from pathlib import Path

from converters.sources import child
from converters.sources.archives import check_archive
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput

SCRIPT = "export_torch.py"
ENVIRONMENTS = ("torch", "huggingface")

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began before torch 1.6: a pickle of one magic number."""

_ZIP_MAGIC = b"PK\x03\x04"
_INNER = re.compile(
    r"(data\.pkl|constants\.pkl|archive_format|archive_version|models/.+\.json|serialized_exported_program\.json)"
)
_FIRST = re.compile(
    rb"[^/\x00]+/(data\.pkl|data/|code/|models/|archive_|constants\.pkl|version|byteorder|\.data/|\.format_)"
)


def matches(path: Path) -> bool:
    """Return whether the file is a PyTorch archive, whole or cut off, or a pickle that `torch.save` began."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(256)
    if not head.startswith(_ZIP_MAGIC):
        return head.startswith(LEGACY_MAGIC)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return _FIRST.match(head, 30) is not None
    return (
        any(_INNER.fullmatch(name.partition("/")[2]) for name in names) or "serialized_exported_program.json" in names
    )


def load(path: Path, options: Options) -> Imported:
    """Export the model to ONNX where torch is installed.

    Raises BadInput for a file that is no PyTorch model, one that is damaged, and a pickle of more than tensors; what
    `child.export` raises besides.
    """
    if path.exists():
        _check_file(path)
    return child.export("pytorch", SCRIPT, ENVIRONMENTS, path, options)


def _check_file(path: Path) -> None:
    if not matches(path):
        raise BadInput(
            f"{path}: this is not a PyTorch file (.pt2, TorchScript or a state_dict)",
            "give a file that torch.export.save, torch.jit.save or torch.save wrote, or leave --source away",
        )
    with path.open("rb") as file:
        is_zip = file.read(4) == _ZIP_MAGIC
    if is_zip:
        check_archive(path)
