"""What every source of models promises, whatever the framework: one class, of which each source has a subclass.

A subclass says where a real model is, what to feed it, which file of it is cut off, and which model holds an operator
that its exporter does not know. Models that no package holds are made by the scripts `make_*.py` of this folder, run by
the Python that has the framework.
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import click
import numpy as np
import onnxruntime
import pytest

from converters.sources import select
from converters.sources.environments import ENVIRONMENTS, importable
from converters.sources.imported import Imported, Options
from converters.verify.parity import ParityMeter
from edgert.cli import group
from edgert.errors import BadInput, EdgertError, GateFailed, MissingExtra
from tests.source_answers import source_answers

ROOT = Path(__file__).parents[2]
LEAST_DB = 40.0
SAMPLES = 2

Feeds = dict[str, np.ndarray]


class SourceContract:
    """The promises; pytest runs them in each subclass."""

    kind: ClassVar[str]
    environments: ClassVar[tuple[str, ...]] = ()
    """Names of the environments that hold the framework; the first is the one that is asked for."""

    maker: ClassVar[tuple[str, str]] = ("", "")
    """The script that makes models, and the environment that it runs in."""

    real: ClassVar[str]
    """A real model: an id of `examples/models.py`, or a file that the maker makes."""

    options: ClassVar[Mapping[str, object]] = MappingProxyType({})
    cut: ClassVar[str] = ""
    """Which file of a model that is a folder is cut off."""

    unknown: ClassVar[str] = ""
    """A file that the maker makes: a model with an operator that the exporter does not know."""

    unknown_says: ClassVar[str] = ""
    """What the error for it must hold: the operator and its place."""

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return one sample for the real model."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, make, tmp_path_factory) -> Path:
        """Return the folder with what the maker made, an empty one where there is none."""
        return make(*cls.maker) if cls.maker[0] else tmp_path_factory.mktemp("nothing")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, made, model_path) -> Path:
        """Return the path of the real model."""
        return made / cls.real if (made / cls.real).exists() else model_path(cls.real)

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, source_environment, tmp_path_factory) -> Callable[..., Imported]:
        """Return a function that opens a path; it skips where the framework is missing."""
        if cls.environments:
            source_environment(*cls.environments)

        def open_path(path: Path, kind: str | None = None) -> Imported:
            options = Options(workdir=tmp_path_factory.mktemp("work"), **cls.options)
            return select.open_source(path, kind, options)

        return open_path

    @pytest.fixture(scope="class")
    @classmethod
    def imported(cls, opened, model) -> Imported:
        """Return the real model, imported once for all promises."""
        return opened(model)

    def test_source_tells_its_model_from_the_content(self, model, tmp_path):
        """Nobody has to name the source, and no other source takes the model for its own."""
        assert select.detect(model) == self.kind
        assert [kind for kind, source in select.SOURCES.items() if source.matches(model)] == [self.kind]

    def test_source_loads_a_real_model(self, imported):
        """What comes back is an ONNX file that ONNX Runtime opens, and says what made it."""
        session = onnxruntime.InferenceSession(imported.path, providers=["CPUExecutionProvider"])
        assert session.get_outputs()
        assert imported.kind == self.kind
        assert re.fullmatch(r"[0-9a-f]{64}", imported.sha256)
        assert bool(imported.framework) == bool(imported.tools) == bool(self.environments)

    def test_source_agrees_with_its_own_framework(self, imported, tmp_path):
        """The framework itself, run on the same samples, gives what the graph gives: 40 dB or better."""
        random = np.random.default_rng(0)
        meter = ParityMeter()
        for expected, found in source_answers(imported, [self.feeds(random) for _ in range(SAMPLES)], tmp_path):
            meter.add(expected, found)
        figures = {name: one.sqnr_db for name, one in meter.result().items()}
        assert figures
        assert all(value is None or value >= LEAST_DB for value in figures.values()), figures

    @pytest.mark.parametrize("kept", [0.5, 0.98])
    def test_source_model_that_is_cut_off_is_bad_input(self, opened, model, tmp_path, kept):
        """A copy that ended early is told, with the path, and what to do; nothing is imported."""
        copy = tmp_path / model.name
        if model.is_dir():
            shutil.copytree(model, copy)
        else:
            shutil.copy(model, copy)
        file = copy / self.cut if self.cut else copy
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * kept)])
        self._is_bad_input(lambda: opened(copy, self.kind), str(copy))

    @pytest.mark.parametrize("other", ["ppocr-cls", "face-detection", "text", "folder"])
    def test_source_asked_for_a_model_of_another_kind_says_so(self, opened, model_path, tmp_path, other):
        """`--source` with a path of another kind is bad input, whether that is a model or not."""
        if other in ("text", "folder"):
            path = tmp_path / other
            path.mkdir()
            (path / "notes.txt").write_text("this is no model\n")
            path = path if other == "folder" else path / "notes.txt"
        else:
            path = model_path(other)
            if select.detect(path) == self.kind:
                path = model_path("silero-vad-jit")
        self._is_bad_input(lambda: opened(path, self.kind), str(path))

    @pytest.mark.parametrize("named", [True, False])
    def test_source_empty_folder_is_bad_input(self, tmp_path, named):
        """An empty folder is told as such, with `--source` and without."""
        folder = tmp_path / "empty"
        folder.mkdir()
        options = Options(workdir=tmp_path, **self.options)
        self._is_bad_input(lambda: select.open_source(folder, self.kind if named else None, options), str(folder))

    def test_source_without_its_framework_names_the_line_that_installs_it(self, model, tmp_path, monkeypatch):
        """The error ends with exit code 3, and its remedy is a command that this very edgert takes."""
        if any(importable(ENVIRONMENTS[name]) for name in self.environments):
            pytest.skip(f"this interpreter itself has {self.kind}")
        monkeypatch.setenv("EDGERT_SOURCES", str(tmp_path / "none"))
        with pytest.raises(MissingExtra) as caught:
            select.open_source(model, None, Options(workdir=tmp_path, **self.options))
        assert caught.value.exit_code == 3
        line, pip = re.fullmatch(r"(edgert [^(]+?) *\(.*(pip install \S+)\)", caught.value.remedy).groups()
        assert accepted(line) == {"names": (self.environments[0],), "extra": ()}
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert re.fullmatch(r"edgert\[(\w+)\]", shlex.split(pip)[-1])[1] in extras

    def test_source_operator_that_the_exporter_does_not_know_is_named_with_its_place(self, opened, made):
        """The user learns which operator of which layer is in the way."""
        with pytest.raises(EdgertError, match=self.unknown_says) as caught:
            opened(made / self.unknown, self.kind)
        assert isinstance(caught.value, GateFailed | BadInput)
        assert caught.value.remedy

    def _is_bad_input(self, call: Callable[[], Imported], path: str) -> None:
        with pytest.raises(EdgertError) as caught:
            call()
        assert isinstance(caught.value, BadInput), repr(caught.value)
        assert path in caught.value.message
        assert caught.value.remedy


def accepted(line: str) -> dict[str, object]:
    """Return the parameters of the subcommand that click takes the line for; it fails where click refuses it."""
    program, *words = shlex.split(line)
    assert program == "edgert"
    command: click.Command = group
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    return dict(command.make_context(name, words).params)
