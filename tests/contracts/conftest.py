"""What the contract's classes share: models that no package holds, each made once."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def make(source_environment, tmp_path_factory) -> Callable[[str, str], Path]:
    """Return a function: a script of this folder and the environment it runs in -> the folder with what it made."""
    folders: dict[str, Path] = {}

    def made_by(script: str, environment: str) -> Path:
        if script not in folders:
            folder = tmp_path_factory.mktemp("made")
            command = [str(source_environment(environment)), str(FOLDER / script), str(folder)]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            folders[script] = folder
        return folders[script]

    return made_by
