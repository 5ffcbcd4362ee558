"""What a dry run announces is what a conversion tries."""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converters.candidates.planned import Planned
from converters.dry_run import ProfilePlan, plan_conversion
from converters.pipeline import convert_request
from converters.request import BundleReport, Candidate, ProfileFailure, Request
from edgert.host import host_facts
from edgert.profile import detect_profile
from edgert.runtime.providers import Absent, find_device
from tests.converters.outlier_net import save_outlier_net
from tests.converters.quantize.nets import net, normal
from tests.converters.wide_net import save_wide_net

OWN = detect_profile(host_facts())
OTHER = "raspberry-pi-5"
FLOAT_FIRST = "raspberry-pi-4"
NPU, GPU = "snapdragon-8-gen-3", "intel-core-ultra-s2-igpu"
PROVIDERS = {NPU: "QNNExecutionProvider", GPU: "WebGpuExecutionProvider"}


def save_products(folder: Path) -> tuple[Path, Path]:
    """Write a net of two matrix products and a folder of samples; returns both paths."""
    weights = {"w": normal(64, 64), "v": normal(64, 8, seed=1)}
    ir.save(
        net("h = MatMul (x, w)\nr = Relu (h)\ny = MatMul (r, v)", "float[4,64] x", "float[4,8] y", weights),
        folder / "p.onnx",
    )
    (folder / "samples").mkdir()
    for seed in range(4):
        np.save(folder / "samples" / f"{seed}.npy", normal(4, 64, seed=seed))
    return folder / "p.onnx", folder / "samples"


def save_quantized(folder: Path) -> tuple[Path, Path]:
    """Write a net that came quantized and a folder of samples; returns both paths."""
    weights = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.clip(normal(64, 8) * 40 + 128, 0, 255).astype(np.uint8),
    }
    body = "q = QuantizeLinear (x, s, z)\nd = DequantizeLinear (q, s, z)\nv = DequantizeLinear (w, s, z)\n"
    ir.save(net(body + "y = MatMul (d, v)", "float[4,64] x", "float[4,8] y", weights), folder / "q.onnx")
    _, samples = save_products(folder)
    return folder / "q.onnx", samples


SAVE = {"quantized": save_quantized, "outlier": save_outlier_net, "wide": save_wide_net, "products": save_products}


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Callable[..., Request]:
    """Return a function: which net, profile and further fields -> a request; the outlier net needs mixed precision."""
    nets: dict[str, tuple[Path, Path]] = {}

    def request(net: str, profile: str, **fields: object) -> Request:
        if net not in nets:
            nets[net] = SAVE[net](tmp_path_factory.mktemp(net))
        model, samples = nets[net]
        output = tmp_path_factory.mktemp("out")
        plain = Request(model, (profile,), output, calibration=str(samples), samples=4, emulator_samples=1)
        return replace(plain, budget_s=1.0, **fields)

    return request


def need(profile: str) -> None:
    """Skip, with the reason, where the profile's accelerator is neither here nor emulated."""
    found = find_device(PROVIDERS.get(profile, "CPUExecutionProvider"), allow_emulated=True)
    if isinstance(found, Absent):
        pytest.skip(f"{found.provider}: {found.reason}; {found.remedy}")


def planned(request: Request) -> ProfilePlan:
    (plan,) = plan_conversion(request).profiles
    return plan


def tried(request: Request) -> list[Candidate]:
    """Return the candidates that a conversion ran; one that was only spoken of has no gate value."""
    (entry,) = convert_request(request).bundles
    assert isinstance(entry, BundleReport | ProfileFailure)
    return [one for one in entry.candidates if one.gate is not None]


def announces(plan: ProfilePlan, candidate: Candidate) -> list[Planned]:
    return [
        one
        for one in plan.candidates
        if one.precision == candidate.precision and fnmatchcase(candidate.variant, one.label)
    ]


@pytest.mark.parametrize(
    ("net", "profile", "fields"),
    [
        ("outlier", OWN, {}),
        ("outlier", OTHER, {}),
        ("outlier", FLOAT_FIRST, {}),
        ("outlier", OTHER, {"precision": "mixed"}),
        ("outlier", OTHER, {"precision": "int8", "max_drop": 0.5}),
        ("outlier", OTHER, {"precision": "fp32"}),
        ("quantized", OTHER, {}),
        ("products", OWN, {}),
        ("products", OTHER, {"precision": "w8"}),
        ("products", OTHER, {"max_drop": 1e-7}),
        ("products", OWN, {"precision": "int4", "max_drop": 0.5}),
        ("wide", NPU, {}),
        ("outlier", GPU, {}),
    ],
)
def test_plan_announces_every_candidate_that_a_conversion_tries(asked, net, profile, fields):
    """Each candidate that was run stands in the plan, and each that the plan is sure of was run."""
    need(profile)
    request = asked(net, profile, **fields)
    plan, found = planned(request), tried(request)
    assert found
    assert [one.variant for one in found if not announces(plan, one)] == []
    ran = {label.label for one in found for label in announces(plan, one)}
    assert {one.label for one in plan.candidates if one.certain} <= ran


def test_plan_of_a_cpu_profile_that_prefers_float_makes_int8_depend_on_it(asked):
    """Where no time is real, the profile's order says that int8 is only tried when float misses the gate."""
    (first, *rest) = planned(asked("outlier", FLOAT_FIRST)).candidates
    assert (first.precision, first.certain) == ("fp32", True)
    assert not any(one.certain for one in rest)


def test_plan_for_this_machine_holds_the_graph_as_it_came(asked):
    """Only where times are real does the original graph join, to catch a rewrite that is slower."""
    labels = [[one.label for one in planned(asked("outlier", profile)).candidates] for profile in (OWN, OTHER)]
    assert ["fp32-plain" in one for one in labels] == [True, False]


@pytest.mark.parametrize(("net", "profile"), [("outlier", GPU), ("outlier", NPU), ("quantized", OTHER)])
def test_plan_of_a_precision_that_cannot_be_had_says_so(asked, net, profile):
    """The dry run finds what would end a profile, and goes on."""
    plan = planned(asked(net, profile, precision="int4"))
    assert plan.error is not None
    assert "int4" in plan.error.message
    assert plan.candidates == ()


def test_plan_of_a_recipe_is_its_one_candidate(asked, tmp_path):
    """With a recipe nothing is searched: what it names is what is tried."""
    request = asked("outlier", OTHER, precision="fp32")
    (made,) = convert_request(request).bundles
    assert isinstance(made, BundleReport)
    again = replace(request, profiles=(), precision="auto", output=tmp_path)
    (plan,) = plan_conversion(again, made.path).profiles
    assert (plan.profile, [one.label for one in plan.candidates]) == (OTHER, ["fp32"])


def test_plan_of_an_npu_with_a_free_dimension_names_it(asked, tmp_path):
    """Samples of two sizes leave open what the NPU needs: no calibration is needed to know."""
    ir.save(
        net("y = Conv <pads = [1,1,1,1]> (x, w)", "float[1,3,h,8] x", "float[1,4,h,8] y", {"w": normal(4, 3, 3, 3)}),
        tmp_path / "free.onnx",
    )
    (tmp_path / "samples").mkdir()
    for height in (8, 16):
        np.save(tmp_path / "samples" / f"{height}.npy", np.ones((1, 3, height, 8), np.float32))
    plan = planned(Request(tmp_path / "free.onnx", (NPU,), tmp_path / "out", calibration=str(tmp_path / "samples")))
    assert plan.error is not None
    assert "dimension 2" in plan.error.message
