"""The child process that an exporter runs in: what comes back, and what is told when it does not."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.sources import child, environments
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, GateFailed

Run = Callable[[str], Imported]

HEADER = f"""
import sys
sys.path.insert(0, {str(child.EXPORTERS)!r})
import os, signal, time
from pathlib import Path
from protocol import Failed, answer, progress, samples, serve, tools
"""


class Bench:
    """A model path and the progress that came through."""

    def __init__(self, folder: Path, python: Callable[[str], Path]) -> None:
        python("sklearn")
        self.folder = folder
        self.model = folder / "model.thing"
        self.model.write_bytes(b"weights")
        self.told: list[tuple[str, int, int]] = []

    def export(self, body: str, progress: Callable[[str, int, int], None] | None = None) -> Imported:
        """Run an exporter made of these lines."""
        script = self.folder / "export_thing.py"
        script.write_text(HEADER + body)
        work = self.folder / "work"
        work.mkdir()
        options = Options(work, progress=progress or (lambda *told: self.told.append(told)))
        return child.export("thing", str(script), ["sklearn"], self.model, options)


@pytest.fixture
def bench(tmp_path: Path, source_environment: Callable[[str], Path]) -> Bench:
    """Return a bench in a folder of its own."""
    return Bench(tmp_path, source_environment)


WHOLE = """
def export(request):
    print("noise on stdout")
    progress("halfway", 1, 2)
    (Path(request["out"]) / "model.onnx").write_bytes(b"graph")
    (Path(request["out"]) / "seen.txt").write_text(os.environ["HF_HUB_OFFLINE"] + request["path"])
    answer(request, model="model.onnx", framework="thing 1", tools={"thing": "1"}, files=["seen.txt"], quantized=True)
serve(export=export)
"""


def test_export_whole_answer_comes_back_with_progress(bench: Bench) -> None:
    """Files, framework and progress come through; what a library prints does not disturb, and the hub is off."""
    found = bench.export(WHOLE)
    assert found.path.read_bytes() == b"graph"
    assert (found.kind, found.framework, found.quantized) == ("thing", "thing 1", True)
    assert bench.told == [("halfway", 1, 2)]
    assert found.files["seen.txt"].read_text() == "1" + str(bench.model)
    assert found.sha256 == child.digest_of(bench.model)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ('def export(request): raise Failed("op X in layer y", "replace it", "GateFailed")', GateFailed, "op X"),
        ('def export(request): raise Failed("cut off", "copy it again")', BadInput, "cut off"),
        ('def export(request): raise RuntimeError("the framework broke")', GateFailed, "the framework broke"),
        ("def export(request): os.kill(os.getpid(), signal.SIGKILL)", EnvironmentFailed, "killed by signal 9"),
        ("def export(request): pass", EnvironmentFailed, "left no answer"),
        ('def export(request): answer(request, model="../model.thing")', BadInput, "did not make"),
        ('def export(request): answer(request, model="missing.onnx")', BadInput, "did not make"),
        ("def export(request): raise MemoryError", EnvironmentFailed, "out of memory"),
    ],
)
def test_export_that_fails_says_how(bench: Bench, body: str, kind: type[EdgertError], says: str) -> None:
    """Each way in which an exporter can end badly is an error of the right kind, with a remedy."""
    with pytest.raises(kind) as caught:
        bench.export(body + "\nserve(export=export)")
    assert says in caught.value.message
    assert caught.value.remedy


def test_export_interrupted_kills_the_child(bench: Bench) -> None:
    """Ctrl-C in the parent leaves no framework running."""
    body = """
def export(request):
    progress(str(os.getpid()))
    time.sleep(60)
serve(export=export)
"""
    seen: list[int] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        seen.append(int(stage))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.export(body, interrupt)
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_export_whose_parent_is_killed_ends_by_itself(bench: Bench, tmp_path: Path) -> None:
    """kill -9 of the converter, as the system does when memory runs out, leaves no framework running."""
    pid_file = tmp_path / "pid"
    script = tmp_path / "export_thing.py"
    script.write_text(
        f"{HEADER}\ndef export(request):\n    Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "serve(export=export)\n"
    )
    (tmp_path / "work").mkdir()
    code = (
        "import sys; from pathlib import Path\nfrom converters.sources import child\n"
        "from converters.sources.imported import Options\n"
        "child.export('thing', sys.argv[1], ['sklearn'], Path(sys.argv[2]), Options(Path(sys.argv[3])))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(script), str(bench.model), str(tmp_path / "work")])
    _wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _runs(int(pid_file.read_text())))


def _wait_for(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def _runs(process: int) -> bool:
    """Return whether a process is there and is more than an entry that nobody has waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_export_with_a_damaged_environment_says_how_to_make_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment whose Python is no program is named, with the two commands that repair it."""
    if environments.importable(environments.ENVIRONMENTS["sklearn"]):
        pytest.skip("this interpreter has scikit-learn itself, so the environment is not used")
    monkeypatch.setenv("EDGERT_SOURCES", str(tmp_path))
    python = environments.interpreter(tmp_path / "sklearn")
    python.parent.mkdir(parents=True)
    python.write_bytes(b"no program")
    python.chmod(0o755)
    requirements = list(environments.ENVIRONMENTS["sklearn"].requirements)
    marker = {"requirements": requirements, "extra": []}
    (tmp_path / "sklearn" / environments.MARKER).write_text(json.dumps(marker))
    (tmp_path / "work").mkdir()
    with pytest.raises(EnvironmentFailed) as caught:
        child.export("thing", "export_sklearn.py", ["sklearn"], tmp_path, Options(tmp_path / "work"))
    assert "edgert sources install" in caught.value.remedy


def test_digest_of_folder_depends_on_names_and_bytes(tmp_path: Path) -> None:
    """Renaming a file or changing a byte changes the digest; the order of creation does not."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, names in ((first, "xy"), (second, "yx")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    assert child.digest_of(first) == child.digest_of(second)
    (second / "x").rename(second / "z")
    assert child.digest_of(first) != child.digest_of(second)
