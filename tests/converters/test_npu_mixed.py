"""Mixed precision on an NPU: 8-bit activations with 16 bits where they are needed, chosen by measurement."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.candidates.wide import wide_around
from converters.pipeline import convert
from converters.quantize.plan import plan_quantization
from converters.request import BundleReport, ProfileFailure
from edgert.bundle import open_bundle
from edgert.runtime.providers import Absent, find_device
from tests.converters.quantize.nets import NPU, conv_net, images, net, normal, ranges_of
from tests.converters.wide_net import save_wide_net

PROFILE, QNN = "snapdragon-8-gen-3", "QNNExecutionProvider"


def _need_the_npu() -> None:
    found = find_device(QNN, allow_emulated=True)
    if isinstance(found, Absent):
        pytest.skip(f"{QNN}: {found.reason}; {found.remedy}")


def _converted(tmp_path, precision="auto", max_drop=0.01):
    _need_the_npu()
    model, samples = save_wide_net(tmp_path)
    conversion = convert(
        model,
        [PROFILE],
        calibration=str(samples),
        output=tmp_path / "out",
        precision=precision,
        max_drop=max_drop,
        emulator_samples=1,
    )
    return conversion.bundles[0]


def test_npu_mixed_gives_sixteen_bits_to_what_int8_ruins_and_to_nothing_else(tmp_path):
    """int8 is below the gate, mixed holds it whole on the NPU, and w8a16 is not tried any more."""
    report = _converted(tmp_path)
    assert isinstance(report, BundleReport), report
    gates = {one.precision: one.gate for one in report.candidates}
    assert set(gates) == {"int8", "mixed"}
    assert gates["int8"] < 0.95
    assert gates["mixed"] > 0.999
    assert report.chosen == "qdq-u8s8"
    variant = report.variants[0]
    assert (variant.precision, set(variant.nodes)) == ("mixed", {QNN})
    decisions = {layer.layer: layer.decision for layer in report.layers}
    assert decisions["a0"] == decisions["bent"] == "16-bit"
    assert {decisions[f"s{number}"] for number in range(1, 6)} == {"int8"}
    assert {report.layers[0].layer, report.layers[1].layer} == {"a0", "bent"}
    assert report.layers[0].error > 0.01


def test_npu_mixed_file_and_recipe_name_the_wide_layers(tmp_path):
    """Both widths are in the file, and the recipe lists the nodes that have 16 bits."""
    bundle = open_bundle(_converted(tmp_path).path)
    model, recipe = onnx.load(bundle.folder / "qdq-u8s8.onnx", load_external_data=False), bundle.manifest.recipe
    kinds = {one.name: one.data_type for one in model.graph.initializer if one.name.endswith("zero_point")}
    assert {onnx.TensorProto.UINT8, onnx.TensorProto.UINT16} <= set(kinds.values())
    assert {"a0", "bent"} <= set(recipe["wide"])
    assert recipe["wide"] == sorted(recipe["wide"])
    assert recipe["calibration_method"] in ("minmax", "percentile")


def test_npu_mixed_twice_gives_the_same_digest(tmp_path):
    """The ranking and the search are deterministic."""
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        digests.append(_converted(tmp_path / name).digest)
    assert digests[0] == digests[1]


def test_npu_mixed_can_be_forced(tmp_path):
    """--precision mixed gives the mixed variant even where the gate would let int8 pass."""
    report = _converted(tmp_path, "mixed", max_drop=0.9)
    assert isinstance(report, BundleReport), report
    assert report.variants[0].precision == "mixed"
    assert {one.precision for one in report.candidates} == {"mixed"}


def test_npu_int8_by_name_never_mixes_and_names_what_costs_most(tmp_path):
    """--precision int8 fails with the best it found and the layers in question, each with op type and error."""
    failure = _converted(tmp_path, "int8")
    assert isinstance(failure, ProfileFailure)
    assert {one.precision for one in failure.candidates} == {"int8"}
    assert "best candidate, qdq-u8s8, has cosine 0." in failure.message
    named = failure.message.split("cost most: ")[1]
    assert named.startswith("Conv '")
    assert named.index("LeakyRelu '") < named.index("Sub '")
    assert len(named.split(", ")) <= 5
    assert "--precision" in failure.remedy


def test_npu_gate_that_nothing_holds_tells_the_best_of_all_precisions(tmp_path):
    """Every precision is in the table, mixed among them, and the one that came nearest is named."""
    failure = _converted(tmp_path, max_drop=0.0)
    assert isinstance(failure, ProfileFailure)
    assert [*dict.fromkeys(one.precision for one in failure.candidates)] == ["int8", "mixed", "w8a16", "fp16"]
    nearest = max((one for one in failure.candidates if one.gate is not None), key=lambda one: one.gate)
    assert f"best candidate, {nearest.variant}, has" in failure.message
    assert nearest.precision != "int8"


def test_npu_model_that_itself_gives_infinity_is_told_so(tmp_path):
    """No calibration data helps where the model's own output is infinite: the output and the way out are named."""
    _need_the_npu()
    mask = np.zeros((1, 8, 8, 8), np.float32)
    mask[..., 4:] = -np.inf
    weights = {"w": normal(8, 3, 3, 3) / 5, "mask": mask}
    body = "a = Conv <pads = [1,1,1,1]> (x, w) y = Add (a, mask)"
    ir.save(net(body, "float[1,3,8,8] x", "float[1,8,8,8] y", weights), tmp_path / "masked.onnx")
    np.savez(tmp_path / "sample.npz", x=normal(1, 3, 8, 8))
    conversion = convert(
        tmp_path / "masked.onnx", [PROFILE], calibration=str(tmp_path / "sample.npz"), output=tmp_path / "out"
    )
    (failure,) = conversion.bundles
    assert isinstance(failure, ProfileFailure)
    assert "the model itself gives NaN or infinity in 'y'" in failure.message
    assert "calibration" not in failure.remedy


def test_wide_around_follows_copies_and_absorbed_nodes(tmp_path):
    """Of the value behind a Relu that is absorbed, the node before it is meant; of one that is reshaped, its reader."""
    model = conv_net()
    plan = plan_quantization(model, ranges_of(model, images(2), tmp_path), NPU, 8)
    assert wide_around(model.graph, ["r"], plan) == {"a", "r", "c", "d"}
    assert wide_around(model.graph, ["e"], plan) == wide_around(model.graph, ["f"], plan) == {"e", "p", "f", "y"}
    assert wide_around(model.graph, [], plan) == frozenset()


@pytest.mark.parametrize(("precision", "told"), [("auto", "not tried: rounding the weights alone costs"), ("int8", "")])
def test_npu_weights_that_int8_ruins_are_told_and_no_layer_is_blamed(precision, told, tmp_path):
    """A matrix has one scale on this NPU; where that costs too much, 16-bit activations are not even tried."""
    _need_the_npu()
    matrix = normal(16, 9)
    matrix[:, 8] *= 1000
    body = "h = MatMul (x, w) quiet, loud = Split <axis = 1> (h, sizes)"
    outputs = "float[1,8] quiet, float[1,1] loud"
    ir.save(net(body, "float[1,16] x", outputs, {"w": matrix, "sizes": np.array([8, 1])}), tmp_path / "loud.onnx")
    np.savez(tmp_path / "sample.npz", x=normal(1, 16))
    (entry,) = convert(
        tmp_path / "loud.onnx",
        [PROFILE],
        calibration=str(tmp_path / "sample.npz"),
        output=tmp_path / "out",
        precision=precision,
    ).bundles
    if precision == "int8":
        assert isinstance(entry, ProfileFailure)
        assert "the weights alone cost" in entry.message
        assert "layers" not in entry.message
    else:
        assert isinstance(entry, BundleReport), entry
        assert [told in one.outcome for one in entry.candidates if one.precision == "mixed"] == [True]
        assert entry.chosen == "fp32-npu"
