"""Where the framework of a source lives: this very Python, or a virtual environment of its own in the user's cache.

Frameworks clash (optimum-onnx 0.1 wants a transformers that newer tools do not), so each set of exactly pinned packages
can have its own environment, made by `edgert sources install NAME`. Nothing here imports a framework.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import EnvironmentFailed, MissingExtra, UsageError, nearest
from edgert.host import cache_dir, locked

MARKER = "edgert-environment.json"


@dataclass(frozen=True)
class Environment:
    """One set of packages: `requirements` as pip takes them, `modules` that must be importable to use it."""

    name: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    size: str
    what: str


_TORCH = ("torch==2.13.0", "onnxscript>=0.7,<0.8", "onnx>=1.20,<2", "numpy>=2,<3")

ENVIRONMENTS: Mapping[str, Environment] = {
    environment.name: environment
    for environment in (
        Environment(
            "torch", _TORCH, ("torch", "onnxscript", "onnx"), "0.9 GB", "PyTorch: .pt2, TorchScript, state_dict"
        ),
        Environment(
            "huggingface",
            (
                *_TORCH,
                "optimum-onnx==0.1.0",
                "transformers==4.57.6",
                "safetensors>=0.4,<1",
                "pillow>=11,<14",
                "onnxruntime>=1.31,<2",
            ),
            ("torch", "onnxscript", "onnx", "transformers", "optimum.exporters.onnx", "PIL"),
            "1.2 GB",
            "Hugging Face folders; PyTorch as well",
        ),
        Environment(
            "tensorflow",
            ("tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "tf_keras==2.21.0", "onnx>=1.20,<2", "numpy>=2,<3"),
            ("tensorflow", "tf2onnx", "tf_keras", "onnx"),
            "1.5 GB",
            "TensorFlow, Keras, TFLite",
        ),
        Environment(
            "sklearn",
            (
                "scikit-learn==1.9.1",
                "skl2onnx==1.20.0",
                "onnxmltools==1.16.0",
                "xgboost-cpu==3.2.0",
                "lightgbm==4.7.0",
                "packaging>=24",
                "pandas>=2,<4",
                "onnx>=1.20,<2",
                "numpy>=2,<3",
            ),
            ("sklearn", "skl2onnx", "onnxmltools", "xgboost", "lightgbm", "pandas", "onnx"),
            "0.6 GB",
            "scikit-learn, XGBoost, LightGBM",
        ),
        Environment(
            "paddle",
            ("paddlepaddle==3.3.1", "paddle2onnx==2.1.0", "onnx==1.17.0", "packaging>=24", "numpy>=2,<3"),
            ("paddle", "paddle2onnx", "onnx"),
            "1.1 GB",
            "PaddlePaddle: .json programs of Paddle 3",
        ),
        Environment(
            "paddle2",
            ("paddlepaddle==3.3.1", "paddle2onnx==1.3.1", "packaging>=24", "numpy>=2,<3"),
            ("paddle", "paddle2onnx"),
            "0.9 GB",
            "PaddlePaddle: .pdmodel programs of Paddle 2",
        ),
    )
}


def environments_dir() -> Path:
    """Return the folder that holds the environments: `$EDGERT_SOURCES`, else `sources` in edgert's cache folder."""
    chosen = os.environ.get("EDGERT_SOURCES")
    return Path(chosen) if chosen else cache_dir() / "sources"


def find(names: Sequence[str]) -> Path:
    """Return a Python that has the packages of one of the environments `names`, tried in order.

    This very interpreter comes first, for it has the user's own modules too. Raises MissingExtra with the line that
    installs the first of `names`.
    """
    for name in names:
        if importable(ENVIRONMENTS[name]):
            return Path(sys.executable)
    for name in names:
        if is_installed(name):
            return interpreter(environments_dir() / name)
    wanted = ENVIRONMENTS[names[0]]
    raise MissingExtra(
        f"this model needs the source environment '{wanted.name}' ({wanted.what}), which is not installed here",
        f"edgert sources install {wanted.name}   (about {wanted.size}; or pip install 'edgert[{wanted.name}]')",
    )


def importable(environment: Environment) -> bool:
    """Return whether this interpreter finds every module of `environment`; none is imported but parent packages."""
    return all(_has_module(name) for name in environment.modules)


def _has_module(name: str) -> bool:
    """Look a module up; of a dotted one only the first part, since finding the rest would import it."""
    return importlib.util.find_spec(name.split(".", maxsplit=1)[0]) is not None


def is_installed(name: str) -> bool:
    """Return whether the environment `name` is whole and holds what this version of edgert asks for."""
    return installed_packages(name) is not None


def installed_packages(name: str) -> tuple[str, ...] | None:
    """Return what the environment `name` was made with, the user's own packages last; None where there is none."""
    folder = environments_dir() / name
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        requirements = tuple(str(item) for item in marker["requirements"])
        extra = tuple(str(item) for item in marker["extra"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = requirements == ENVIRONMENTS[name].requirements and interpreter(folder).exists()
    return (*requirements, *extra) if whole else None


def interpreter(folder: Path) -> Path:
    """Return the path of the Python in a virtual environment."""
    return folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"


def install(name: str, extra: Sequence[str] = (), say: Callable[[str], None] = lambda line: None) -> Path:
    """Make the environment `name`, with the packages `extra` besides, and return its folder.

    An environment that is whole is kept and only gets `extra`; one that is not is made anew. `say` gets a line for each
    step. Raises UsageError for an unknown name, EnvironmentFailed when pip fails.
    """
    environment = known(name)
    folder = environments_dir() / name
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder.parent / f"{name}.lock"):
        have = installed_packages(name)
        if have is None:
            shutil.rmtree(folder, ignore_errors=True)
            say(f"making a virtual environment in {folder}")
            _run([sys.executable, "-m", "venv", str(folder)], "python -m venv")
            say(f"installing {' '.join(environment.requirements)} (about {environment.size})")
            _pip(folder, environment.requirements)
        before = have[len(environment.requirements) :] if have else ()
        wanted = tuple(dict.fromkeys((*before, *extra)))
        if tuple(extra):
            say(f"installing {' '.join(extra)}")
            _pip(folder, (*environment.requirements, *wanted))
        marker = {"requirements": list(environment.requirements), "extra": list(wanted)}
        (folder / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
    return folder


def remove(name: str) -> bool:
    """Delete the environment `name`; returns whether there was one."""
    known(name)
    folder = environments_dir() / name
    if not folder.exists():
        return False
    with locked(folder.parent / f"{name}.lock"):
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return True


def known(name: str) -> Environment:
    """Return the row of the table; UsageError that names the nearest when there is none."""
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    close = nearest(name, ENVIRONMENTS)
    raise UsageError(
        f"there is no source environment '{name}'",
        f"did you mean '{close}'?" if close else f"choose one of {', '.join(ENVIRONMENTS)}",
    )


def _pip(folder: Path, requirements: Sequence[str]) -> None:
    command = [str(interpreter(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*command, *requirements], "pip install")


def _run(command: Sequence[str], what: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0:
        return
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    told = [line for line in lines if "ERROR" in line or "Error" in line] or lines
    raise EnvironmentFailed(
        f"{what} ended with {done.returncode}: {' '.join(told[:2])[:400] or 'it said nothing'}",
        "check the network, pip's index settings (`python -m pip config list`) and the free disk space",
    )
