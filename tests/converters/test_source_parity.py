"""The imported graph against the source itself: what is compared, and what fails."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from converters.source_parity import SourceCheck, check_source
from converters.sources.imported import Imported
from edgert.errors import EnvironmentFailed, GateFailed
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session

SAMPLES = [{"x": np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32)} for seed in range(3)]


class Framework:
    """A source that answers with the tiny model itself, times `factor`; with `gap`, not for the second sample."""

    def __init__(self, session: Session, factor: float = 1.0, gap: bool = False) -> None:
        self.session, self.factor, self.gap = session, factor, gap
        self.parts: list[str] = []

    def __call__(self, samples: Path, out: Path, part: str) -> None:
        """Do what `Imported.rerun` does."""
        self.parts.append(part)
        for index, file in enumerate(sorted(samples.glob("*.npz"))):
            if self.gap and index == 1:
                continue
            with np.load(file) as feeds:
                outputs = self.session.run({name: feeds[name] for name in feeds.files})
            np.savez(out / file.name, **{name: array * np.float32(self.factor) for name, array in outputs.items()})


@pytest.fixture
def session(tiny_model: Path) -> Session:
    """Return the tiny model, open on the CPU."""
    device = find_device("CPUExecutionProvider")
    assert isinstance(device, ProviderDevice)
    return Session.open(tiny_model, device)


def check(
    tiny_model: Path, session: Session, framework: Framework, folder: Path, least: float | None = None, **more: bool
) -> SourceCheck | None:
    """Run the check on the three samples."""
    imported = Imported("thing", tiny_model, "0" * 64, framework="thing 1", rerun=framework, **more)
    found: list[Mapping[str, np.ndarray]] = list(SAMPLES)
    return check_source(imported, "", session, iter(found), folder, least, lambda *told: None)


def test_check_source_equal_graph_is_exact_and_can_be_replayed(
    tiny_model: Path, session: Session, tmp_path: Path
) -> None:
    """The same numbers give no error at all, over all samples, and a variant is compared with the same answers."""
    framework = Framework(session)
    found = check(tiny_model, session, framework, tmp_path)
    assert found is not None
    assert (found.count, found.parity["y"].sqnr_db, framework.parts) == (3, None, [""])
    again = found.replay(session, limit=2)
    assert (again.samples, again.reference, again.note) == (2, "source", "thing 1")
    assert again.outputs["y"].sqnr_db is None


def test_check_source_graph_one_percent_off_is_at_the_bound(tiny_model: Path, session: Session, tmp_path: Path) -> None:
    """An error of 2 % is 34 dB: below the 40 dB of a float model, above the 20 dB of one that came quantized."""
    with pytest.raises(GateFailed, match=r"not what thing 1 runs.*'y'"):
        check(tiny_model, session, Framework(session, 1.02), tmp_path / "a")
    assert check(tiny_model, session, Framework(session, 1.02), tmp_path / "b", quantized=True) is not None
    assert check(tiny_model, session, Framework(session, 1.02), tmp_path / "c", least=30.0) is not None
    with pytest.raises(GateFailed):
        check(tiny_model, session, Framework(session, 1.02), tmp_path / "d", least=35.0)


def test_check_source_without_framework_has_nothing_to_say(tiny_model: Path, session: Session, tmp_path: Path) -> None:
    """A model that came as ONNX is its own original."""
    imported = Imported("onnx", tiny_model, "0" * 64)
    assert check_source(imported, "", session, iter(SAMPLES), tmp_path, None, lambda *told: None) is None


def test_check_source_answer_missing_for_a_sample_is_an_error(
    tiny_model: Path, session: Session, tmp_path: Path
) -> None:
    """A source that skips a sample is not taken for one that agrees."""
    with pytest.raises(EnvironmentFailed, match="nothing for sample 0001"):
        check(tiny_model, session, Framework(session, gap=True), tmp_path)
