"""PaddlePaddle inference models: a program, `.json` (Paddle 3) or `.pdmodel` (Paddle 2), with its `.pdiparams`.

The path is either file or the folder that holds them. The work is done by `exporters/export_paddle.py`, where Paddle is
installed: the two kinds of program need two versions of paddle2onnx, so each has an environment of its own.
"""

import dataclasses
import hashlib
from pathlib import Path

from converters.sources import child
from converters.sources.imported import Imported, Options
from converters.sources.paddle_params import check_params
from edgert.errors import BadInput, GateFailed, UsageError

SCRIPT = "export_paddle.py"
ENVIRONMENTS = {".json": ("paddle",), ".pdmodel": ("paddle2",)}

MAX_PARAMS_BYTES = (2 << 30) - (1 << 20)
"""paddle2onnx, 1.3 and 2.1 alike, writes the whole model as one protobuf message, which holds 2 GB at most."""

_PIR_MAGIC = b'"magic"'
_PIR_HEAD_BYTES = 200


def matches(path: Path) -> bool:
    """Return whether the path is a Paddle program, its parameters, or a folder with either."""
    if path.is_dir():
        return any(_is_program(file) or file.suffix == ".pdiparams" for file in path.iterdir() if file.is_file())
    return path.is_file() and (path.suffix == ".pdiparams" or _is_program(path))


def load(path: Path, options: Options) -> Imported:
    """Export the model to ONNX where Paddle is installed.

    Raises BadInput for a path that is no Paddle model or lacks one of its two files, UsageError for an option that a
    Paddle program answers itself, GateFailed for more than 2 GB of parameters, and what `child.export` raises.
    """
    if options.dynamic or options.factory:
        option = "--dynamic" if options.dynamic else "--factory"
        raise UsageError(
            f"{option} says nothing to a Paddle program: it declares its layers and free dimensions itself",
            f"leave {option} away; --shape gives a free dimension its size",
        )
    program = find_program(path)
    params = program.with_suffix(".pdiparams")
    if params.stat().st_size > MAX_PARAMS_BYTES:
        raise GateFailed(
            f"{params}: {params.stat().st_size >> 20} MB of parameters; paddle2onnx writes models of 2 GB at most",
            "save the model with float16 parameters or in parts, or make ONNX another way",
        )
    imported = child.export("paddle", SCRIPT, ENVIRONMENTS[program.suffix], program, options)
    both = hashlib.sha256("".join(child.digest_of(file) for file in (program, params)).encode())
    return dataclasses.replace(imported, sha256=both.hexdigest())


def find_program(path: Path) -> Path:
    """Return the program file of the model at `path`, after a look at both of its files."""
    program = _only_program(path) if path.is_dir() else _beside(path)
    if not _is_program(program):
        raise BadInput(
            f"{program}: this is not a Paddle program", "give the .json or .pdmodel file that paddle.jit.save wrote"
        )
    params = program.with_suffix(".pdiparams")
    if not params.is_file():
        raise BadInput(
            f"{params}: no such file, and it holds the parameters of {program.name}", "put it beside the program"
        )
    check_params(params)
    return program


def _only_program(folder: Path) -> Path:
    programs = sorted(file for file in folder.iterdir() if file.is_file() and _is_program(file))
    if len(programs) == 1:
        return programs[0]
    if programs:
        names = ", ".join(file.name for file in programs)
        raise BadInput(f"{folder}: it holds {len(programs)} Paddle programs: {names}", "give the path of one of them")
    alone = sorted(folder.glob("*.pdiparams"))
    if alone:
        return _beside(alone[0])
    raise BadInput(
        f"{folder}: it holds no Paddle program", "give the folder with the .json or .pdmodel and the .pdiparams file"
    )


def _beside(file: Path) -> Path:
    """Return the program that a file of the pair belongs to: itself, or the one with the same name."""
    if file.suffix != ".pdiparams":
        return file
    for suffix in ENVIRONMENTS:
        if file.with_suffix(suffix).is_file():
            return file.with_suffix(suffix)
    raise BadInput(
        f"{file}: the program of these parameters, {file.stem}.json or {file.stem}.pdmodel, is not beside them",
        "put the program into the same folder",
    )


def _is_program(file: Path) -> bool:
    """Return whether the file begins like a program: a PIR one names its magic, a ProgramDesc starts with field 1."""
    if file.suffix not in ENVIRONMENTS:
        return False
    with file.open("rb") as stream:
        head = stream.read(_PIR_HEAD_BYTES)
    if file.suffix == ".pdmodel":
        return head.startswith(b"\x0a")
    return head.lstrip().startswith(b"{") and _PIR_MAGIC in head and b'"pir"' in head
