"""Which tensors the report shows as stored worst."""

import pytest

from converters.pipeline import convert
from converters.quantize.affine import activation_affine, make_affine
from converters.quantize.observers import TensorRange
from converters.report.histograms import SHOWN, is_narrowed
from converters.request import BundleReport
from edgert.bundle import open_bundle
from tests.converters.outlier_net import save_outlier_net

CPU = "raspberry-pi-5"


def converted(folder, **fields) -> BundleReport:
    model, samples = save_outlier_net(folder)
    (report,) = convert(model, [CPU], calibration=str(samples), output=folder / "out", **fields).bundles
    assert isinstance(report, BundleReport), report
    return report


def test_histograms_of_a_mixed_bundle_are_those_of_its_costliest_layers(tmp_path):
    """The order is that of the table of layers; what stays in float says so."""
    report = converted(tmp_path, precision="mixed")
    names = [one.name for one in report.histograms]
    assert names == [one.layer for one in report.layers if one.layer in names]
    assert report.layers[0].layer in names
    decided = {one.layer: one.decision for one in report.layers}
    assert {one.name: one.stored == "float" for one in report.histograms} == {
        name: decided[name] == "float" for name in names
    }


def test_histograms_without_layers_leave_out_what_the_next_node_cuts_off(tmp_path):
    """A HardSigmoid ignores what its integers cannot hold: such a tensor is not one that is stored badly."""
    report = converted(tmp_path, precision="int8", max_drop=0.9)
    assert 0 < len(report.histograms) <= SHOWN
    read_by_hard_sigmoid = [one for one in report.histograms if one.name in ("a1", "a2", "a3", "a4", "a5")]
    assert [one.name for one in read_by_hard_sigmoid if max(-one.minimum, one.maximum) > 3.5] == []
    for one in report.histograms:
        assert one.minimum < one.maximum
        assert sum(one.counts) > 0


def test_bundle_of_a_variant_far_from_the_original_can_be_written(tmp_path):
    """A gate that lets anything pass still makes a manifest that can be read."""
    report = converted(tmp_path, precision="int8", max_drop=1.0)
    assert report.variants[0].checks[0].outputs["y"].cosine < 0.5
    assert open_bundle(report.path).manifest.golden.min_cosine[report.chosen] >= -1.0


def test_histograms_of_a_float_bundle_are_none(tmp_path):
    """Nothing was rounded, and nothing is calibrated for the report."""
    assert converted(tmp_path, precision="fp32").histograms == ()


@pytest.mark.parametrize(("low", "high", "narrowed"), [(-40.0, 35.0, True), (-2.5, 2.5, False), (0.5, 2.5, False)])
def test_narrowed_is_an_encoding_that_leaves_out_what_was_calibrated(low, high, narrowed):
    """Rounding the bounds to whole steps is not narrowing; zero always belongs to an encoding."""
    held = make_affine("uint8", 5.0 / 255, 128)
    assert is_narrowed(held, TensorRange(low, high, 40.0, 9)) is narrowed
    assert not is_narrowed(activation_affine(TensorRange(low, high, 40.0, 9), "uint8"), TensorRange(low, high, 40.0, 9))
