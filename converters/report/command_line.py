"""The command line of a request: `edgert convert` with every flag that is not at its default, quoted for a shell."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from converters.request import Request
from edgert.image_spec import ImageSpec

FLAGS = {
    "calibration": "--calibration",
    "source": "--source",
    "task": "--task",
    "factory": "--factory",
    "submodule": "--submodule",
    "parity_db": "--parity",
    "classes": "--classes",
    "precision": "--precision",
    "max_drop": "--max-drop",
    "metric": "--metric",
    "labels": "--labels",
    "evaluate": "--evaluate",
    "samples": "--samples",
    "emulator_samples": "--emulator-samples",
    "time_budget_s": "--time-budget",
    "memory_budget": "--memory-budget",
    "license": "--license",
    "name": "--name",
    "threads": "--threads",
}
"""Field of a request -> the flag that takes its value as one word."""

SWITCHES = {"trust_pickle": "--trust-pickle", "folder": "--folder"}
GIVEN_AGAIN = ("calibration", "labels", "evaluate", "classes", "factory", "trust_pickle", "threads", "folder")
"""What a recipe does not hold and has to be given beside it."""

ONLY_PYTHON = ("version", "budget_s")
"""Fields that have no flag."""


def command_line(request: Request, recipe: Path | None = None) -> str:
    """Return the command that asks for the same; a comment behind it names what only `converters.convert` takes."""
    words = [*_start(request)]
    for profile in request.profiles:
        words += ["-p", profile]
    words += ["-o", _not_a_flag(str(request.output))]
    if recipe is not None:
        words += ["--recipe", str(recipe)]
    words += _flags(request, (*FLAGS, *SWITCHES, "dynamic", "shapes", "images"))
    default = {one.name: one.default for one in fields(Request)}
    only = [f"{name}={getattr(request, name)!r}" for name in ONLY_PYTHON if getattr(request, name) != default[name]]
    return shlex.join(words) + (f"  # and {', '.join(only)} of converters.convert" if only else "")


def replay_command(request: Request, bundle: Path, calibration: str | None) -> str:
    """Return the command that builds the bundle again from the recipe in it, to the same bytes and without a search.

    `calibration` is None where no samples have to be given.
    """
    words = [*_start(request), "-o", "again", "--recipe", str(bundle)]
    given = [name for name in GIVEN_AGAIN if name != "calibration" or calibration is not None]
    return shlex.join([*words, *_flags(request, given)])


def _start(request: Request) -> list[str]:
    return ["edgert", "convert", _not_a_flag(str(request.model))]


def _not_a_flag(path: str) -> str:
    """Return a path that click does not take for a flag."""
    return f"./{path}" if path.startswith("-") else path


def _flags(request: Request, names: Sequence[str]) -> list[str]:
    default = {one.name: one.default for one in fields(Request)}
    words: list[str] = []
    for name in names:
        value = getattr(request, name)
        if name in ("dynamic", "shapes", "images"):
            words += _repeated(name, value)
        elif name in SWITCHES:
            words += [SWITCHES[name]] if value else []
        elif value != default[name]:
            words += _flag(FLAGS[name], _word(value))
    return words


def _flag(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _repeated(name: str, entries: Mapping[str, object]) -> Iterator[str]:
    for key, value in entries.items():
        if isinstance(value, ImageSpec):
            yield from _flag("--image", f"{key}:{image_rules(value)}" if key else image_rules(value))
        elif isinstance(value, tuple):
            flag = "--shape" if name == "shapes" else "--dynamic"
            yield from _flag(flag, f"{key}={','.join(map(str, value))}")


def image_rules(spec: ImageSpec) -> str:
    """Return the rules of a picture as `--image` takes them, the default ones left out but for the first."""
    words = [f"color={spec.color}"]
    default = ImageSpec()
    for name in ("mean", "std"):
        if getattr(spec, name) != getattr(default, name):
            words.append(f"{name}={'/'.join(_word(number) for number in getattr(spec, name))}")
    for name in ("resize", "filter", "shortest_edge"):
        if getattr(spec, name) != getattr(default, name):
            words.append(f"{name}={getattr(spec, name)}")
    return ",".join(words)
