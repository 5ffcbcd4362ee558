"""What one profile's search spares the next, and that what is shipped is run all the same."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from converters.pipeline import convert
from converters.request import BundleReport
from converters.verify.parity import ParityMeter
from edgert.host import host_facts
from edgert.profile import detect_profile
from tests.converters.outlier_net import save_outlier_net
from tests.converters.quantize.nets import net, normal

PI, PHONE, HOST = "raspberry-pi-5", "android-arm64-generic", detect_profile(host_facts())


def _converted(tmp_path, profiles, stages, **options):
    model, samples = save_outlier_net(tmp_path)

    def note(stage, done, total):
        if not stages or stages[-1] != stage:
            stages.append(stage)

    return convert(
        model, profiles, calibration=str(samples), output=tmp_path / "out", folder=True, progress=note, **options
    ).bundles


def test_twin_is_told_what_failed_and_runs_what_held(tmp_path, monkeypatch):
    """The phone's candidates are those of the board: what failed is listed with whose figure it is, the mix is run."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    stages = []
    board, phone = _converted(tmp_path, [PI, PHONE], stages)
    assert isinstance(board, BundleReport)
    assert isinstance(phone, BundleReport)
    told = {one.variant: one for one in phone.candidates if f"as for {PI}" in one.outcome}
    failed = {one.variant: one for one in board.candidates if one.outcome.startswith("below the gate")}
    assert told.keys() == failed.keys()
    assert len(told) >= 4
    assert all(told[name].gate == failed[name].gate < 0.99 for name in told)
    own = [stage for stage in stages if stage.startswith(f"{PHONE}: quantizing")]
    assert len(own) == 1
    assert "mixed" in own[0]
    assert phone.chosen == board.chosen
    assert phone.layers == board.layers
    assert not any(stage.startswith(f"{PHONE}: calibrating") for stage in stages)
    assert not any("looking for the layers" in stage for stage in stages if stage.startswith(PHONE))


def test_twin_of_a_forced_precision_gets_that_precision(tmp_path, monkeypatch):
    """--precision mixed, and int8 would hold the gate as well: both profiles get the mix."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    reports = _converted(tmp_path, [PI, PHONE], [], precision="mixed", max_drop=0.9)
    assert [one.variants[0].precision for one in reports] == ["mixed", "mixed"]
    assert len({one.candidates[0].variant for one in reports}) == 1
    labels = [[one.variant for one in report.candidates] for report in reports]
    assert all(len(own) == len(set(own)) for own in labels)


def test_twin_of_other_integers_names_its_own_candidates(tmp_path, monkeypatch):
    """u8 here, s8 there: no row of the board has this machine's class, nor stands there twice."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    if HOST != "x86-avx512-vnni":
        pytest.skip(f"this machine's profile is {HOST}, whose integers are those of the board")
    host, board = _converted(tmp_path, [HOST, PI], [], precision="mixed", max_drop=0.9)
    labels = [one.variant for one in board.candidates]
    assert len(labels) == len(set(labels))
    assert not any("u8s8" in label for label in labels)
    assert sum("u8s8" in one.variant for one in host.candidates) == sum("s8s8" in label for label in labels) > 2


def test_twins_of_another_machine_choose_what_the_first_would_alone(tmp_path, monkeypatch):
    """Converted alone, the phone's variant is the same file to the byte as behind the board."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    _, behind = _converted(tmp_path, [PI, PHONE], [])
    (tmp_path / "alone").mkdir()
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "alone-cache"))
    (alone,) = _converted(tmp_path / "alone", [PHONE], [])
    files = [(one.path / f"{one.chosen}.onnx").read_bytes() for one in (alone, behind)]
    assert files[0] == files[1]
    assert alone.digest == behind.digest


def test_integers_of_another_machine_follow_those_of_this_one(tmp_path, monkeypatch):
    """u8 here and s8 there have the same steps: one graph, one calibration, and the s8 file is run by itself."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    stages = []
    model, samples = tmp_path / "plain.onnx", tmp_path / "samples"
    weights = {f"w{number}": normal(8, 8, 3, 3, seed=number) / 6 for number in range(3)}
    body = " ".join(f"a{n} = Conv <pads = [1,1,1,1]> (r{n - 1}, w{n}) r{n} = Relu (a{n})" for n in range(3))
    body = body.replace("r-1", "x") + " y = GlobalAveragePool (r2)"
    ir.save(net(body, "float[1,8,24,24] x", "float[1,8,1,1] y", weights), model)
    samples.mkdir()
    for number in range(4):
        np.savez(samples / f"{number}.npz", x=normal(1, 8, 24, 24, seed=50 + number))
    here, board = convert(
        model,
        [HOST, PI],
        calibration=str(samples),
        output=tmp_path / "out",
        progress=lambda stage, done, total: stages.append(stage),
    ).bundles
    assert isinstance(here, BundleReport)
    assert isinstance(board, BundleReport)
    assert board.chosen == "qdq-s8s8"
    assert any(stage.startswith(f"{PI}: comparing qdq-s8s8") for stage in stages)
    assert not any(stage.startswith(f"{PI}: calibrating") for stage in stages)
    best = max((one for one in here.candidates if one.variant.startswith("qdq-")), key=lambda one: one.gate)
    ran = next(one for one in board.candidates if one.outcome == "chosen")
    assert ran.variant.removeprefix("qdq-s8s8") == best.variant.removeprefix("qdq-u8s8")
    assert ran.gate == pytest.approx(best.gate, abs=1e-4)


def test_candidate_that_cannot_hold_ends_early_and_says_so(tmp_path, monkeypatch):
    """Its gate is of the samples it had; a call that allows a larger fall runs it over the rest."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    (strict,) = _converted(tmp_path, [PI], [], precision="int8")
    outcomes = [one.outcome for one in strict.candidates if one.precision == "int8"]
    assert outcomes
    assert all(word.startswith("below the gate after ") and word.endswith(" of 8 samples") for word in outcomes)
    (tmp_path / "again").mkdir()
    (loose,) = _converted(tmp_path / "again", [PI], [], precision="int8", max_drop=1.0)
    chosen = loose.variants[0].checks[0]
    assert {one.samples for one in chosen.outputs.values()} == {8}
    told = json.loads((loose.path / "measurements.json").read_text())
    assert not any(" of 8 samples" in one["outcome"] for one in told["candidates"])


def test_highest_cosine_is_what_equal_samples_would_still_make_of_it():
    """One of four samples at a right angle: at best 0.75; labels and empty meters bound nothing."""
    meter = ParityMeter()
    assert meter.highest_cosine(4) == 1.0
    meter.add({"y": np.array([1.0, 0.0])}, {"y": np.array([0.0, 1.0])})
    assert meter.highest_cosine(4) == pytest.approx(0.75)
    meter.add({"y": np.array([1.0, 0.0])}, {"y": np.array([1.0, 0.0])})
    assert meter.highest_cosine(4) == pytest.approx(0.75)
    assert meter.highest_cosine(2) == pytest.approx(meter.result()["y"].cosine)
    words = ParityMeter()
    words.add({"label": np.array(["a"])}, {"label": np.array(["b"])})
    assert words.highest_cosine(10) == 1.0
