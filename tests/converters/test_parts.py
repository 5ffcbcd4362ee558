"""The decoder of a model is converted for the same device, and says where it runs if that is not the accelerator."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.bench import open_bench
from converters.packing import PartFile
from converters.parts import convert_part, open_parts
from converters.request import Request
from converters.sources.imported import Imported
from edgert.bundle import open_bundle
from edgert.profile import load_profile
from edgert.runtime.providers import find_device
from tests.runtime.small_models import present
from tests.runtime.task_files import SPEECH, Net, decoder, encoder, node, save_net, save_word_tokenizer

NPU, GPU, CPU = "snapdragon-8-gen-3", "intel-core-ultra-s2-igpu", "raspberry-pi-5"
CPU_PROVIDER = "CPUExecutionProvider"


def one_hot_decoder() -> Net:
    """Return the decoder with logits of 0 and 1: it says the same, by an operator that WebGPU does not have."""
    net = decoder()
    scores = [node("Unsqueeze", "sum first", "scores"), node("Hardmax", "scores", "logits", axis=-1)]
    return replace(net, nodes=[*(one for one in net.nodes if one.name != "logits"), *scores])


@pytest.fixture
def converted(tmp_path: Path) -> Callable[[Net, str], PartFile]:
    """Return a function: a decoder and the id of a profile -> its bundle, beside an encoder of sound."""
    samples = tmp_path / "samples"
    samples.mkdir()
    for number, loudness in enumerate((0, -5)):
        features = np.random.default_rng(number).normal(loudness, size=(1, 80, 100)).astype(np.float32)
        np.savez(samples / f"{number}.npz", features=features)

    def convert(part: Net, profile_id: str) -> PartFile:
        imported = Imported(
            "onnx",
            save_net(encoder(), tmp_path / "encoder.onnx"),
            "0" * 64,
            task=SPEECH,
            parts={"decoder": save_net(part, tmp_path / "decoder.onnx")},
            files={"tokenizer.json": save_word_tokenizer(tmp_path / "tokenizer.json")},
        )
        request = Request(imported.path, (profile_id,), tmp_path / "out", calibration=str(samples))
        profile = load_profile(profile_id)
        scratch, staging = tmp_path / "scratch", tmp_path / "staging"
        scratch.mkdir()
        staging.mkdir()
        with ExitStack() as stack:
            shared = stack.enter_context(open_bench(request, imported, scratch, [profile]))
            (bench,) = [stack.enter_context(opened) for opened in open_parts(shared, [profile])]
            return convert_part(bench, profile, staging)

    return convert


@pytest.mark.parametrize(
    ("profile", "part", "said"),
    [
        (NPU, decoder(), "not on its NPU: dimension 1 ('past') of input 'past' is not fixed"),
        (
            GPU,
            one_hot_decoder(),
            "not on its GPU: WebGpuExecutionProvider refuses 1 nodes:\n  Hardmax at node 'logits'",
        ),
    ],
)
def test_part_that_the_accelerator_refuses_goes_to_the_cpu_with_a_warning(
    converted: Callable[[Net, str], PartFile], profile: str, part: Net, said: str
) -> None:
    """A cache that grows, or an operator that is not there: the part runs on the CPU, and the reason is told."""
    present(find_device(load_profile(profile).providers[0].name, allow_emulated=True), pytest.skip)
    found = converted(part, profile)
    assert found.warning.startswith(f"the decoder runs on the CPU of this device, {said}")
    assert found.report.profile == profile
    assert {one.provider for one in found.report.variants} == {CPU_PROVIDER}
    manifest = open_bundle(found.report.path).manifest
    assert {placement.provider for placement in manifest.placements} == {CPU_PROVIDER}


def test_part_that_the_accelerator_takes_runs_there_without_a_warning(
    converted: Callable[[Net, str], PartFile],
) -> None:
    """The same decoder without that operator is whole on the GPU."""
    present(find_device("WebGpuExecutionProvider", allow_emulated=True), pytest.skip)
    found = converted(decoder(), GPU)
    assert not found.warning
    assert found.report.variants[0].provider == "WebGpuExecutionProvider"


@pytest.mark.parametrize("part", [decoder(), one_hot_decoder()])
def test_part_for_a_cpu_has_no_warning(converted: Callable[[Net, str], PartFile], part: Net) -> None:
    """On a device without an accelerator the CPU is where the part belongs."""
    found = converted(part, CPU)
    assert not found.warning
    assert {one.provider for one in found.report.variants} == {CPU_PROVIDER}
