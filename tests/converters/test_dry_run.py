"""`convert --dry-run`: what would be tried, from the graph and one run of the original, and nothing left on disk."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from converters.dry_run import ConversionPlan, plan_conversion
from converters.pipeline import convert_request
from converters.request import BundleReport, Request
from edgert.errors import BadInput
from tests.converters.outlier_net import save_outlier_net
from tests.test_cli import call

ARM, NPU, GPU = "raspberry-pi-5", "snapdragon-8-gen-3", "intel-core-ultra-s2-igpu"
TIMING = "timing one run of the original"
PASSES = ("reading the samples", TIMING, "graph passes for")
"""All that a dry run may be seen at."""


@pytest.fixture(name="cache")
def _cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _plan(model: Path, samples: Path, output: Path, *profiles: str, **options) -> ConversionPlan:
    return plan_conversion(Request(model, profiles, output, calibration=str(samples), **options))


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("existing", [False, True])
def test_dry_run_leaves_every_folder_as_it_was(tiny_model, tiny_samples, tmp_path, cache, existing):
    """Neither the output, which need not be there, nor the cache gets a file; a bundle that is there stays."""
    output = tmp_path / "work" / "out"
    (output if existing else output.parent).mkdir(parents=True)
    if existing:
        (output / f"{tiny_model.stem}-{ARM}.edgert").write_text("a bundle", encoding="utf-8")
    before = _files(tmp_path / "work")
    plan = _plan(tiny_model, tiny_samples, output, ARM)
    assert _files(tmp_path / "work") == before
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]
    assert plan.profiles[0].writes == output / f"{tiny_model.stem}-{ARM}.edgert"
    assert plan.profiles[0].replaces is existing
    assert plan.report == output / f"{tiny_model.stem}-report.html"


def test_dry_run_times_the_original_once_and_calibrates_compares_and_emulates_nothing(tmp_path, cache):
    """Its stages are reading, the passes and one timing of the original, whatever the profiles are."""
    model, samples = save_outlier_net(tmp_path)
    stages = []
    _plan(model, samples, tmp_path / "out", ARM, NPU, GPU, progress=lambda stage, *_: stages.append(stage))
    assert stages.count(TIMING) == 1
    assert [stage for stage in stages if not stage.rpartition(": ")[2].startswith(PASSES)] == []


def test_dry_run_time_is_that_of_one_run_by_the_clock(tiny_model, tiny_samples, tmp_path):
    """With a clock that goes on by a quarter of a second at each look, a run takes 250 ms, and estimates follow."""
    looks = iter(range(10_000))
    request = Request(tiny_model, (ARM,), tmp_path, calibration=str(tiny_samples))
    plan = plan_conversion(request, clock=lambda: next(looks) / 4)
    assert plan.run_ms == 250.0
    estimate = plan.profiles[0].estimate
    assert estimate is not None
    assert 16 * 0.25 < estimate.least_s <= estimate.most_s


@pytest.mark.parametrize(("profile", "processor"), [(ARM, "cpu"), (NPU, "npu"), (GPU, "gpu")])
def test_dry_run_of_each_kind_of_profile_says_where_and_what(tmp_path, profile, processor):
    """Providers with their state, candidates in order, passes and tensors; an absent provider says why."""
    model, samples = save_outlier_net(tmp_path)
    (plan,) = _plan(model, samples, tmp_path / "out", profile).to_json()["profiles"]
    assert plan["processor"] == processor
    states = {one["processor"]: one["state"] for one in plan["providers"]}
    assert states["cpu"] in ("host", "emulated")
    assert all(one["detail"] for one in plan["providers"])
    if states[processor] == "absent":
        assert plan["error"]["remedy"]
    else:
        assert plan["error"] is None
    assert plan["candidates"][0]["certain"]
    assert plan["calibration"]["tensors"] >= 15
    ran = [(one["name"], one["changes"]) for one in plan["passes"]]
    assert ran[:2] == [("lift_constants", 0), ("raise_opset", 0)]  # the net is of the profile's opset
    assert {"fold_affine", "fuse_activations"} <= {name for name, _ in ran}


def test_dry_run_candidates_are_those_that_a_conversion_tries(tmp_path):
    """What is planned for sure is tried, and what is tried was planned, at the same places."""
    model, samples = save_outlier_net(tmp_path)
    request = Request(model, (ARM,), tmp_path / "out", calibration=str(samples))
    (plan,) = plan_conversion(request).profiles
    (report,) = convert_request(request).bundles
    assert isinstance(report, BundleReport)
    tried = [one.variant for one in report.candidates if one.gate is not None]
    patterns = [one.label for one in plan.candidates]
    places = {name: [i for i, pattern in enumerate(patterns) if fnmatchcase(name, pattern)] for name in tried}
    assert all(places.values()), places
    sure = [one.label for one in plan.candidates if one.certain]
    assert set(sure) <= set(tried)
    assert patterns[:2] == ["fp32", "qdq-s8s8-minmax"]


def test_dry_run_static_profile_with_an_open_dimension_says_what_would_fail(tmp_path, model_path):
    """A profile that would fail is a plan with the error; the other profiles have theirs."""
    samples = tmp_path / "samples"
    samples.mkdir()
    _save_widths(samples)
    npu, cpu = _plan(model_path("ppocr-cls"), samples, tmp_path / "out", NPU, ARM).profiles
    assert npu.error is not None
    assert "dimension" in npu.error.message or "not here" in npu.error.message
    assert cpu.error is None


def _save_widths(folder: Path) -> None:
    for width in (160, 192):
        np.save(folder / f"{width}.npy", np.zeros((1, 3, 48, width), np.float32))


def test_dry_run_output_that_is_a_file_is_refused(tiny_model, tiny_samples, tmp_path):
    """What would end the conversion at once ends the dry run too."""
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="not a folder"):
        _plan(tiny_model, tiny_samples, tmp_path / "out", ARM)


def test_dry_run_of_the_command_exits_0_and_prints_the_plan(capsys, tiny_model, tiny_samples, tmp_path):
    """The text has a line per provider and candidate and the estimate; `--json` gives the document."""
    arguments = ("convert", tiny_model, "-p", ARM, "--calibration", tiny_samples, "-o", tmp_path / "out", "--dry-run")
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "dry run: nothing is calibrated" in out
    for word in ("fp32", "qdq-s8s8-minmax", "estimate:", "float tensors", "samples: 16", "cosine", "report.html"):
        assert word in out
    code, out, _ = call(capsys, *arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert {"model", "source", "inputs", "evaluation", "calibration", "run_ms", "profiles", "report"} <= set(document)
    assert not (tmp_path / "out").exists()
