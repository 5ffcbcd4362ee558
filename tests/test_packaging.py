"""The wheel and the sdist build, carry what they must, and work where only the base packages are."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXTRAS_ONLY = (
    "onnx",
    "onnx_ir",
    "onnxscript",
    "tomli_w",
    "PIL",
    "rich",
    "securesystemslib",
    "onnxruntime_qnn",
    "cbor2",
    "prometheus_client",
    "opentelemetry",
)


@dataclass(frozen=True)
class Built:
    """The two files that a release consists of."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Installed:
    """edgert in an environment of its own, far from this repository."""

    bin: Path
    folder: Path

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment with nothing of this repository in reach."""
        program = str(self.bin / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=_clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _must_run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=_clean_environment(), check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist from the source tree, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    _must_run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Installed:
    """Make an environment with the wheel and what its base install asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=True, symlinks=os.name != "nt")
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    _must_run(bin_folder / "python", "-m", "pip", "install", "--quiet", built.wheel)
    return Installed(bin_folder, folder)


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, environment: Installed, built: Built) -> Installed:
    """Install edgert from the wheel, then from the sdist, into the same environment."""
    package = built.wheel if request.param == "wheel" else built.sdist
    _must_run(
        environment.bin / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--force-reinstall",
        "--no-deps",
        package,
    )
    return environment


def test_distributions_pass_twine_check(built: Built) -> None:
    """Both files have metadata and a README that a package index accepts."""
    _must_run(sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist)


def test_wheel_carries_types_profiles_and_licence_and_nothing_else(built: Built) -> None:
    """The wheel has both packages, the profiles beside them and the licence; no tests, no examples."""
    names = set(zipfile.ZipFile(built.wheel).namelist())
    profiles = {f"device_profiles/{path.name}" for path in (ROOT / "device_profiles").glob("*.toml")}
    assert profiles
    assert {"edgert/py.typed", "converters/py.typed", *profiles} <= names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"edgert", "converters", "device_profiles"}
    assert [name for name in names if "__pycache__" in name] == []


def test_wheel_carries_every_source_file(built: Built) -> None:
    """No module of either package is missing from the wheel."""
    names = set(zipfile.ZipFile(built.wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("edgert", "converters")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources - names == set()


def test_sdist_carries_what_builds_and_tests_it(built: Built) -> None:
    """The sdist has the Makefile, the tests and the licence, so that it can be built and tested by itself."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "LICENSE",
        "pyproject.toml",
        "tests/test_packaging.py",
        "docs/architecture.md",
    } <= names
    assert [name for name in names if name.startswith((".venv", ".git/"))] == []


def test_base_install_has_no_package_of_an_extra(installed: Installed) -> None:
    """The base install is small: what belongs to an extra is not there."""
    code = f"import importlib.util as u, json; print(json.dumps([n for n in {EXTRAS_ONLY!r} if u.find_spec(n)]))"
    done = installed.call("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_base_install_help_names_the_commands(installed: Installed) -> None:
    """`edgert --help` works and lists what can be called."""
    done = installed.call("edgert", "--help")
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert "profiles" in done.stdout


def test_base_install_profiles_list_names_every_profile(installed: Installed) -> None:
    """The installed program finds the profiles that the repository holds."""
    done = installed.call("edgert", "profiles", "list")
    assert done.returncode == 0, done.stderr
    missing = [path.stem for path in (ROOT / "device_profiles").glob("*.toml") if path.stem not in done.stdout]
    assert missing == []


def test_base_install_run_gives_the_outputs_of_the_bundle(
    installed: Installed, tiny_bundle: Path, tmp_path: Path
) -> None:
    """`edgert run` on a bundle made by the converter writes finite outputs of the right shape."""
    np.savez(tmp_path / "input.npz", x=np.ones((1, 8), np.float32))
    output = tmp_path / "output.npz"
    command = (
        "run",
        str(tiny_bundle),
        "--input",
        str(tmp_path / "input.npz"),
        "--output",
        str(output),
        "--json",
    )
    done = installed.call("edgert", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["y"]["shape"] == [1, 4]
    with np.load(output) as arrays:
        assert arrays["y"].shape == (1, 4)
        assert np.isfinite(arrays["y"]).all()


def test_base_install_convert_names_the_command_that_installs_it(installed: Installed, tiny_model: Path) -> None:
    """Without the extra, `edgert convert` ends with 3 and says what to install."""
    done = installed.call(
        "edgert", "convert", str(tiny_model), "-p", "x86-avx2", "-o", "out", "--calibration", "random"
    )
    assert done.returncode == 3, done.stderr
    assert "pip install" in done.stderr
    assert "convert" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_edgert_loads_nothing_heavy(installed: Installed) -> None:
    """`import edgert` imports neither numpy nor onnxruntime, and turns ONNX Runtime's telemetry off."""
    heavy = "sorted({'numpy', 'onnxruntime', 'click'} & set(sys.modules))"
    code = f"import edgert, os, sys; print({heavy}, os.environ['ORT_DISABLE_TELEMETRY'])"
    done = installed.call("python", "-c", code)
    assert done.stdout.strip() == "[] 1", done.stderr
