"""Calibrations shared by the profiles of a call and by calls."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converters.calibrations import Calibrations, CalibrationSettings
from converters.pipeline import convert
from converters.quantize.calibrate import CalibrationFailed
from converters.request import ProfileFailure
from converters.samples import Sample, Samples
from tests.converters.quantize.nets import conv_net, images, net

SHAPES = {"x": (1, 3, 16, 16)}


class _Source:
    """Samples, and how often they were read."""

    def __init__(self, samples: list[Sample], digest: str) -> None:
        self.passes = 0
        self._samples = samples
        self.samples = Samples("made", "callable", len(samples), digest, "", self._read)

    def _read(self) -> Iterator[Sample]:
        self.passes += 1
        return iter(self._samples)


@pytest.fixture(name="cache")
def _cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _settings(tmp_path: Path, seen: list[tuple[int, int]] | None = None) -> CalibrationSettings:
    return CalibrationSettings(tmp_path, 1e9, 1, lambda *now: None if seen is None else seen.append(now))


def test_statistics_of_equal_graphs_are_made_once_per_call_and_kept_for_the_next(cache, tmp_path):
    """Two processors' equal graphs, and a later call, read the samples once in all; progress knows the end."""
    source, seen, call = _Source(images(3), "a"), [], Calibrations()
    settings = _settings(tmp_path, seen)
    first = call.statistics(conv_net(), source.samples, SHAPES, settings)
    assert call.statistics(conv_net(), source.samples, SHAPES, settings) is first
    again = Calibrations().statistics(conv_net(), source.samples, SHAPES, settings)
    assert again.choose("mse") == first.choose("mse")
    assert source.passes == 1
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_statistics_of_other_samples_or_weights_are_made_anew(cache, tmp_path):
    """The graph with its weights and the samples both decide; nothing else's statistics are taken."""
    one, other = _Source(images(3), "a"), _Source(images(2), "b")
    settings = _settings(tmp_path)
    Calibrations().statistics(conv_net(), one.samples, SHAPES, settings)
    assert Calibrations().statistics(conv_net(), other.samples, SHAPES, settings).samples == 2
    changed = conv_net()
    changed.graph.initializers["b1"].const_value = ir.tensor(np.zeros(8, np.float32))
    Calibrations().statistics(changed, one.samples, SHAPES, settings)
    assert one.passes == 2


def test_statistics_that_are_damaged_on_disk_are_made_anew(cache, tmp_path):
    """A damaged file changes nothing but the time: the statistics are made again and kept again."""
    source, settings = _Source(images(2), "a"), _settings(tmp_path)
    first = Calibrations().statistics(conv_net(), source.samples, SHAPES, settings)
    (path,) = (cache / "statistics").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"x" + whole[101:])
    again = Calibrations().statistics(conv_net(), source.samples, SHAPES, settings)
    assert (again.ranges, source.passes) == (first.ranges, 2)
    Calibrations().statistics(conv_net(), source.samples, SHAPES, settings)
    assert source.passes == 2


def test_statistics_without_a_cache_are_made_with_a_warning(tmp_path, monkeypatch):
    """A disk that is full or a folder that cannot be made costs the next call time, and this one nothing."""
    (tmp_path / "file").write_text("in the way")
    source, settings = _Source(images(2), "a"), _settings(tmp_path)
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not kept"):
        assert Calibrations().statistics(conv_net(), source.samples, SHAPES, settings).samples == 2
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "statistics").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="not kept"):
        assert Calibrations().statistics(conv_net(), source.samples, SHAPES, settings).samples == 2


def test_statistics_of_a_graph_that_fails_are_tried_once_per_call(cache, tmp_path):
    """A graph that makes NaN says so to every profile, and runs for the first one only; nothing is kept of it."""
    model = net("y = Sqrt (x)", "float[1,2] x", "float[1,2] y", {})
    source, call = _Source([{"x": np.array([[-1.0, 1.0]], np.float32)}], "a"), Calibrations()
    for _ in range(2):
        with pytest.raises(CalibrationFailed, match="'y'"):
            call.statistics(model, source.samples, {}, _settings(tmp_path))
    assert source.passes == 1
    with pytest.raises(CalibrationFailed, match="'y'"):
        Calibrations().statistics(model, source.samples, {}, _settings(tmp_path))


def test_convert_calibrates_once_for_all_profiles_and_not_again_in_a_second_call(
    cache, tiny_model, tiny_samples, tmp_path
):
    """Two profiles of one call share their calibration, and the next call finds it in the cache."""
    stages: list[str] = []

    def count(output: str) -> int:
        stages.clear()
        profiles = ["raspberry-pi-5", "x86-avx512-vnni"]
        convert(
            tiny_model,
            profiles,
            calibration=str(tiny_samples),
            output=tmp_path / output,
            precision="int8",
            progress=lambda stage, done, total: stages.append(f"{stage} {done}/{total}"),
        )
        return sum("calibrating" in stage for stage in stages)

    assert count("one") == 16
    assert any("calibrating 16/16" in stage for stage in stages)
    assert count("two") == 0


def test_convert_with_a_budget_below_one_tensor_names_it(cache, tiny_model, tiny_samples, tmp_path):
    """The profile fails with the tensor's name and the least budget, and no bundle is left."""
    (entry,) = convert(
        tiny_model,
        ["raspberry-pi-5"],
        calibration=str(tiny_samples),
        output=tmp_path / "out",
        precision="int8",
        memory_budget=100,
    ).bundles
    assert isinstance(entry, ProfileFailure)
    assert "the tensor 'x' has 32 bytes for one sample" in entry.message
    assert "--memory-budget" in entry.remedy
    assert not list((tmp_path / "out").glob("*.edgert"))
