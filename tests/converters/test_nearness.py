"""Scores that are alike do not end the search for a nearer int8, nor choose between two."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from converters.candidates.trial import Draft, Trial, near_enough
from converters.job import Job, Written
from converters.pipeline import convert
from converters.request import BundleReport
from converters.verify.parity import ParityMeter
from edgert.host import host_facts
from edgert.profile import detect_profile
from tests.converters.outlier_net import save_outlier_net
from tests.converters.quantize.nets import normal


def trial(gate: float, noise: float, max_drop: float = 0.01) -> Trial:
    """Return a trial with a gate value and outputs that are off by `noise`."""
    outputs = normal(1, 64)
    meter = ParityMeter()
    meter.add({"y": outputs}, {"y": outputs + noise * normal(1, 64, seed=1)})
    stub: Any = SimpleNamespace(
        request=SimpleNamespace(max_drop=max_drop),
        open_cpu=lambda path: None,
        parity_of=lambda *_: meter.result(),
        evaluate=lambda run: gate,
        gate=lambda parity, score: score,
    )
    session: Any = SimpleNamespace(run=None, close=lambda: None)
    stub.open_cpu = lambda path: session
    return Draft("t", "t", "int8", Written(cast(Any, None), Path("t"), 0), {}).open(cast(Job, stub))


def test_nearness_of_scores_alike_is_that_of_the_outputs():
    """One line of text more or less is chance: 0.999 with near outputs is nearer than 1.0 with far ones."""
    assert trial(0.999, 0.05).nearness > trial(1.0, 0.3).nearness
    assert trial(0.9975, 0.05).nearness > trial(1.02, 0.3).nearness


def test_nearness_of_scores_that_differ_is_that_of_the_scores():
    """A score that has lost more than a quarter of --max-drop counts, however near the outputs are."""
    assert trial(0.997, 0.01).nearness < trial(0.998, 0.3).nearness
    assert trial(0.997, 0.01, max_drop=0.1).nearness > trial(0.998, 0.3, max_drop=0.1).nearness


def test_near_enough_is_a_quarter_of_what_may_be_lost():
    """--max-drop 0.02 leaves 0.005."""
    stub: Any = SimpleNamespace(request=SimpleNamespace(max_drop=0.02))
    assert near_enough(stub) == 0.995


def test_convert_looks_for_nearer_outputs_where_every_score_is_perfect(tmp_path: Path, monkeypatch):
    """A measure that is content with anything does not keep corrected biases from being tried."""
    (tmp_path / "content.py").write_text("def always(run):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    model, samples = save_outlier_net(tmp_path)
    (report,) = convert(
        model,
        [detect_profile(host_facts())],
        calibration=str(samples),
        evaluate="content:always",
        output=tmp_path / "out",
        license="MIT",
    ).bundles
    assert isinstance(report, BundleReport)
    assert any(one.variant.endswith("-bc") for one in report.candidates)
    assert np.isfinite([one.gate for one in report.candidates if one.gate is not None]).all()
