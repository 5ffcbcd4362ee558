"""A function of the user judges a model: what it is given, what it may return, and every way in which it fails."""

import json
from pathlib import Path

import numpy as np
import pytest

from converters.request import ProfileFailure
from converters.verify.evaluation import BROKEN
from edgert import cli
from edgert.errors import BadInput
from tests.converters.evaluated import Files, classifier_files, converted, opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the classifier with its labelled files."""
    return classifier_files(tmp_path_factory.mktemp("classifier"))


FUNCTIONS = """
import numpy as np

def good(run):
    print("one line of chatter")
    return float(run({"x": np.ones((1, 8), np.float32)})["y"].sum())

def tensor(run):
    return np.array([0.25], np.float32)

def raises(run):
    numbers = [1, 2]
    return numbers[7]

def inner(run):
    return deeper()

def deeper():
    raise KeyError("lost")

def leaves(run):
    raise SystemExit(3)

def misfeeds(run):
    return run({"y": 1})

def nan(run):
    return float("nan")

def nothing(run):
    pass

def text(run):
    return "0.9"

def flag(run):
    return True

def two(run, more):
    return 1.0

def nan_for_wide(run):
    return float(run({"x": np.ones((1, 8), np.float32)})["y"][0, 0])

number = 3
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write functions of a user into the working folder, and return it."""
    (tmp_path / "judge_of_the_tests.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "judge_of_the_tests", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("function", "said", "remedy"),
    [
        ("raises", r"raised IndexError at line 13 of judge_of_the_tests\.py: list index", "correct"),
        ("inner", r"raised KeyError at line 19 of judge_of_the_tests\.py", "correct"),
        ("leaves", r"raised SystemExit at line 22", "correct"),
        ("misfeeds", r"at line 25 of judge_of_the_tests\.py: the model has no input 'y'", "takes 'x'"),
        ("nan", "gives nan for the original", "correct"),
        ("nothing", "returned None, a number is expected", "higher is better"),
        ("text", "returned str '0.9'", "higher is better"),
        ("flag", "returned bool 'True'", "higher is better"),
        ("two", "cannot be called with one argument", "takes run"),
        ("number", "'number' is int, a function is expected", "takes run"),
        ("god", "has no function 'god'", "did you mean 'judge_of_the_tests:good'"),
    ],
)
def test_function_that_cannot_judge_is_told(files: Files, judge: Path, function: str, said: str, remedy: str) -> None:
    """Each failure is an error of its own, with the exception and its line, and leaves nothing behind."""
    with pytest.raises(BadInput, match=said) as caught:
        converted(files, judge / "out", evaluate=f"judge_of_the_tests:{function}")
    assert remedy in caught.value.remedy
    assert not (judge / "out").exists()


def test_function_of_a_module_that_is_not_there_is_told(files: Files, judge: Path) -> None:
    """The name of the module, and what Python says."""
    with pytest.raises(BadInput, match="module 'judge_that_is_not' cannot be imported: ModuleNotFoundError"):
        converted(files, judge / "out", evaluate="judge_that_is_not:good")


def test_function_scores_and_its_unit_is_its_own(files: Files, judge: Path) -> None:
    """Softmax adds up to one; a model that gives twice that is better, one that gives NaN is below everything."""
    given = {"calibration": str(files.folder)}
    with opened(files.model, judge / "a", evaluate="judge_of_the_tests:good", **given) as job:
        assert job.shared.reference_score == pytest.approx(1.0)
        assert job.request.metric == "judge_of_the_tests:good"
        double = job.evaluate(lambda feeds: {"y": np.full((1, 4), 0.5)})
        assert job.gate({}, double) == pytest.approx(2.0)
        broken = job.evaluate(lambda feeds: {"y": np.full((1, 4), np.nan)})
        assert job.gate({}, broken) == BROKEN
        assert job.shared.evaluation_json()["kind"] == "function"
        assert len(job.shared.evaluation.digest) == 64
    with opened(files.model, judge / "b", evaluate="judge_of_the_tests:tensor", **given) as job:
        assert job.shared.reference_score == 0.25


def test_convert_refuses_what_a_function_finds_too_bad(files: Files, judge: Path) -> None:
    """A function that likes only the first model it sees, the original, lets no variant through: the gate is real."""
    (judge / "jealous_judge.py").write_text(
        "seen = []\ndef score(run):\n    seen.append(run)\n    return 1.0 if len(seen) == 1 else 0.5\n",
        encoding="utf-8",
    )
    conversion = converted(files, judge / "out", evaluate="jealous_judge:score", max_drop=0.4)
    (failure,) = conversion.bundles
    assert isinstance(failure, ProfileFailure)
    assert conversion.exit_code == 1
    assert "jealous_judge:score 0.5000" in failure.message
    assert not list((judge / "out").glob("*.edgert"))


def test_convert_json_has_nothing_of_what_a_function_prints(
    files: Files, judge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chatter goes to stderr; stdout is the one document."""
    arguments = ["convert", files.model, "-p", "raspberry-pi-5", "--calibration", files.folder, "-o", judge / "out"]
    arguments += ["--evaluate", "judge_of_the_tests:good", "--precision", "fp32", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    assert json.loads(told.out)["evaluation"]["metric"] == "judge_of_the_tests:good"
    assert "one line of chatter" in told.err
