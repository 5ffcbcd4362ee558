"""The command line of a conversion: parsed back it asks for the same, and what it builds has the same bytes."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from converters.pipeline import convert
from converters.report.command_line import FLAGS, ONLY_PYTHON, SWITCHES, command_line, image_rules, replay_command
from converters.request import BundleReport, Conversion, Request, no_progress
from edgert import cli
from edgert.bundle import open_bundle
from edgert.commands import convert as command
from edgert.image_spec import ImageSpec, parse_image_spec

CPU = "raspberry-pi-5"
TAKER = """
class Answer:
    exit_code = 0
    def to_json(self):
        return {}
asked = []
def take(request, recipe):
    asked.append((request, recipe))
    return Answer()
"""
EVERY = {
    "calibration": "data:of a set",
    "shapes": {"x": (1, 3, 48, 320), "a=b": (2,)},
    "images": {"": ImageSpec("bgr", (123.7, 116.3, 103.5), (58.0,), "pad"), "left eye": ImageSpec("gray")},
    "precision": "mixed",
    "max_drop": 0.005,
    "metric": "top5",
    "evaluate": "score:run",
    "license": "Apache-2.0 WITH LLVM-exception",
    "name": "it's mine",
    "folder": True,
    "threads": 3,
    "samples": 7,
    "emulator_samples": 5,
    "memory_budget": 5e8,
    "source": "pytorch",
    "task": "feature-extraction",
    "dynamic": {"ids": ("batch", "", "length")},
    "factory": "make:net",
    "submodule": "body.head",
    "trust_pickle": True,
    "parity_db": -3.5,
    "time_budget_s": 90.5,
}


@pytest.fixture
def asked(tmp_path, monkeypatch) -> Callable[[str], tuple[Request, Path | None]]:
    """Return a function: a command line -> the request that it makes, and the recipe."""
    (tmp_path / "taker.py").write_text(TAKER)
    monkeypatch.syspath_prepend(tmp_path)
    for dry_run in command.WORK:
        monkeypatch.setitem(command.WORK, dry_run, ("taker", "take"))

    def parse(line: str) -> tuple[Request, Path | None]:
        program, *words = shlex.split(line, comments=True)
        assert program == "edgert"
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--json"])
        assert not ended.value.code
        request, recipe = sys.modules["taker"].asked.pop()
        return replace(request, progress=no_progress), recipe

    yield parse
    sys.modules.pop("taker", None)


def test_command_of_a_request_with_every_flag_asks_for_the_same(asked, tmp_path):
    """Values with blanks, quotes and a minus, three kinds of repeated flags: the shell and click give them back."""
    (tmp_path / "label list.csv").write_text("a.npy,1\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    files = {"labels": tmp_path / "label list.csv", "classes": tmp_path / "classes.txt"}
    request = Request(Path("a model.onnx"), (CPU, "x86-avx2"), Path("out dir"), **EVERY, **files)
    assert asked(command_line(request)) == (request, None)


def test_command_names_every_field_of_a_request(tmp_path):
    """A field that is added to the request needs a flag here, or the command would not reproduce it."""
    known = {*FLAGS, *SWITCHES, *ONLY_PYTHON, "model", "profiles", "output", "shapes", "images", "dynamic"}
    assert {one.name for one in fields(Request)} == {*known, "replay", "progress"}
    every = {one.name for one in fields(Request) if one.name in (*FLAGS, *SWITCHES)}
    assert every == {*EVERY, "labels", "classes"} - {"shapes", "images", "dynamic"}


def test_command_of_a_plain_request_has_no_flag_that_is_the_default(asked):
    """What a person would have typed is what the report shows."""
    request = Request(Path("m.onnx"), (CPU,), Path("out"), calibration="random")
    assert command_line(request) == f"edgert convert m.onnx -p {CPU} -o out --calibration random"
    assert asked(command_line(request)) == (request, None)


def test_command_of_a_model_that_looks_like_a_flag_still_names_the_model(asked):
    """A path that begins with a minus is written so that it is a path."""
    request = Request(Path("-p.onnx"), (CPU,), Path("-o"), calibration="-data")
    found, _ = asked(command_line(request))
    assert (found.model, found.output, found.calibration) == (Path("./-p.onnx"), Path("./-o"), "-data")


def test_command_with_a_recipe_names_the_recipe(asked, tmp_path):
    """Without a search the recipe is what was asked for."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")
    request = Request(Path("m.onnx"), (), Path("out"), calibration="data")
    assert asked(command_line(request, recipe)) == (request, recipe)


def test_command_says_what_only_python_can_ask_for():
    """Fields without a flag stand in a comment: the command never claims more than it does."""
    plain = Request(Path("m.onnx"), (CPU,), Path("out"))
    assert "#" not in command_line(plain)
    assert command_line(replace(plain, version="2", budget_s=1.5)).endswith(
        "# and version='2', budget_s=1.5 of converters.convert"
    )


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec(),
        ImageSpec("gray", (127.5,), (1e-3,)),
        ImageSpec("bgr", (1.0, 2.25, 3e8), (58.395, 57.12, 57.375), "crop", "lanczos", 256),
    ],
)
def test_image_rules_parse_back_to_the_same(spec):
    """Rules as `--image` takes them say all of a specification."""
    assert parse_image_spec(image_rules(spec)) == spec


def the(conversion: Conversion) -> BundleReport:
    (report,) = conversion.bundles
    assert isinstance(report, BundleReport), report
    return report


def run(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    assert not ended.value.code


def test_command_in_the_report_makes_the_same_bytes_again(tiny_model, tiny_samples, tmp_path, monkeypatch):
    """The command that a conversion tells is run as it stands, and gives the same digest."""
    monkeypatch.chdir(tmp_path)
    made = convert(tiny_model, [CPU], calibration=str(tiny_samples), output="out", license="MIT", samples=5)
    first = the(made)
    first.path.unlink()
    run(made.command)
    assert open_bundle(first.path).digest == first.digest


def test_replay_command_builds_the_same_bytes_without_a_search(tiny_model, tiny_samples, tmp_path, monkeypatch):
    """The second command of the report needs the bundle and the data, and says nothing that the recipe says."""
    monkeypatch.chdir(tmp_path)
    request = Request(tiny_model, (CPU,), Path("out"), calibration=str(tiny_samples), license="MIT", samples=5)
    first = the(convert(tiny_model, [CPU], calibration=str(tiny_samples), output="out", license="MIT", samples=5))
    line = replay_command(request, first.path, request.calibration)
    assert "MIT" not in line
    run(line)
    assert open_bundle(Path("again") / first.path.name).digest == first.digest
