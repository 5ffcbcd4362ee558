"""A text model on a GPU profile: token ids and masks are int64, which WebGPU takes only when it is told to."""

from pathlib import Path

import numpy as np
import pytest

from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.bundle import open_bundle
from edgert.runtime.providers import find_device
from tests.runtime.small_models import present
from tests.runtime.task_files import VOCABULARY, embedder, save_net

GPU = "intel-core-ultra-s2-igpu"
WEBGPU = "WebGpuExecutionProvider"
OPTION = 'enableInt64 = "1"\n'
PROFILES_FOLDER = Path(__file__).resolve().parents[2] / "device_profiles"


def converted(profile: str, folder: Path) -> BundleReport | ProfileFailure:
    """Convert a net of int64 ids, for a Gather, and an int64 mask, for a Cast; skips where WebGPU is missing."""
    present(find_device(WEBGPU, allow_emulated=True), pytest.skip)
    samples = folder / "samples"
    samples.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        ids = random.integers(0, VOCABULARY, (1, 6))
        np.savez(
            samples / f"{number}.npz",
            input_ids=ids,
            attention_mask=(np.arange(6) < 4 + number)[np.newaxis].astype(np.int64),
        )
    model = save_net(embedder(1, 6), folder / "embedder.onnx")
    (entry,) = convert(model, [profile], calibration=str(samples), output=folder / "out", emulator_samples=1).bundles
    return entry


def test_gpu_takes_token_ids_and_masks_whole(tmp_path: Path) -> None:
    """Every node of the graph runs on WebGPU, and the bundle has the option that makes it so."""
    report = converted(GPU, tmp_path)
    assert isinstance(report, BundleReport), report
    assert all(set(one.nodes) == {WEBGPU} for one in report.variants if one.provider == WEBGPU)
    on_gpu = [one for one in open_bundle(report.path).manifest.placements if one.provider == WEBGPU]
    assert on_gpu
    for placement in on_gpu:
        assert placement.options["enableInt64"] == placement.emulator_options["enableInt64"] == "1"


def test_gpu_without_the_option_refuses_the_mask(tmp_path: Path) -> None:
    """The same profile without `enableInt64` names the Cast of the mask; a Gather takes int64 either way."""
    text = (PROFILES_FOLDER / f"{GPU}.toml").read_text(encoding="utf-8")
    assert text.count(OPTION) == 2
    board = tmp_path / "board.toml"
    board.write_text(text.replace(OPTION, "").replace(f'id = "{GPU}"', 'id = "board"'), encoding="utf-8")
    failure = converted(str(board), tmp_path)
    assert isinstance(failure, ProfileFailure), failure
    assert [(one["op_type"], one["name"]) for one in failure.refused] == [("Cast", "mask")]
