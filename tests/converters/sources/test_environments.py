"""Where frameworks live: what is found, what is missing, and what the remedy says."""

import json
import re
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from converters.sources.environments import (
    ENVIRONMENTS,
    MARKER,
    Environment,
    find,
    importable,
    install,
    installed_packages,
    interpreter,
    remove,
)
from edgert.errors import EnvironmentFailed, MissingExtra, UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is where environments are looked for."""
    monkeypatch.setenv("EDGERT_SOURCES", str(tmp_path))
    return tmp_path


def _absent() -> str:
    """Return an environment that this very interpreter cannot stand in for."""
    return next(name for name, row in ENVIRONMENTS.items() if not importable(row))


def test_find_nothing_installed_names_the_line_that_installs_it(no_environments: Path) -> None:
    """The error ends with exit code 3 and the command to type."""
    name = _absent()
    with pytest.raises(MissingExtra) as caught:
        find([name])
    assert caught.value.exit_code == 3
    assert caught.value.remedy.startswith(f"edgert sources install {name} ")


def test_find_second_name_installed_is_used(no_environments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch models run in the environment of Hugging Face where only that one is there."""
    if importable(ENVIRONMENTS["torch"]) or importable(ENVIRONMENTS["huggingface"]):
        pytest.skip("this interpreter has PyTorch itself")
    folder = no_environments / "huggingface"
    interpreter(folder).parent.mkdir(parents=True)
    interpreter(folder).touch()
    marker = {"requirements": list(ENVIRONMENTS["huggingface"].requirements), "extra": ["timm"]}
    (folder / MARKER).write_text(json.dumps(marker))
    assert find(["torch", "huggingface"]) == interpreter(folder)
    assert (installed_packages("huggingface") or ())[-1] == "timm"


@pytest.mark.parametrize("damage", ["", "{}", '{"requirements": ["torch==1"], "extra": []}', "[1]"])
def test_installed_packages_half_made_or_older_environment_counts_as_none(no_environments: Path, damage: str) -> None:
    """Only a marker with exactly what this version asks for makes an environment whole."""
    folder = no_environments / "torch"
    interpreter(folder).parent.mkdir(parents=True)
    interpreter(folder).touch()
    (folder / MARKER).write_text(damage)
    assert installed_packages("torch") is None


def test_install_index_that_refuses_says_what_pip_said_and_leaves_no_marker(
    no_environments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reachable index the environment is not there afterwards, and the error has pip's reason."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for name, value in {
            "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_RETRIES": "0",
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_NO_CACHE_DIR": "1",
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(EnvironmentFailed, match="pip install ended with"):
            install("sklearn")
    assert installed_packages("sklearn") is None
    assert remove("sklearn")
    assert not remove("sklearn")


def test_install_unknown_name_suggests_the_nearest(no_environments: Path) -> None:
    """A typing error gets the nearest name."""
    with pytest.raises(UsageError) as caught:
        install("tensorflaw")
    assert "tensorflow" in caught.value.remedy


def test_importable_this_interpreter_is_judged_without_importing() -> None:
    """A framework is looked up and never imported: that would cost seconds and gigabytes."""
    row = Environment("x", (), ("numpy.nowhere", "tkinter"), "0", "x")
    before = set(sys.modules)
    importable(row)
    assert "tkinter" not in set(sys.modules) - before
    assert not importable(Environment("x", (), ("no_such_module_here",), "0", "x"))


def test_extras_of_the_package_name_the_same_packages() -> None:
    """`pip install edgert[NAME]` brings the packages that `edgert sources install NAME` pins."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    shared = {"onnx", "numpy", "onnxscript", "onnxruntime"}  # what the base and the extra convert bring
    for name, row in ENVIRONMENTS.items():
        wanted = {re.split(r"[=<>]", item)[0].lower() for item in row.requirements} - shared
        found = {re.split(r"[=<>\[]", item)[0].lower() for item in extras[name]} - {"edgert"}
        if name == "huggingface":
            found |= {"torch"}
        assert found == wanted, name
