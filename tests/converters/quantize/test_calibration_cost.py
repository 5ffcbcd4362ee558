"""What a calibration would take is known without a run."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.calibrate import calibration_cost, observe
from edgert.errors import BadInput
from tests.converters.quantize.nets import net, normal

BODY = "c = Conv <pads = [1,1,1,1]> (x, w)\nh = Relu (c)\ny = GlobalAveragePool (h)"
SHAPE = (1, 3, 16, 16)


def small(dims: str = "1,3,16,16") -> ir.Model:
    return net(BODY, f"float[{dims}] x", "float[1,8,1,1] y", {"w": normal(8, 3, 3, 3)})


class Feeds:
    """Samples that count how often they are read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self):
        self.read += 1
        yield from ({"x": np.full(SHAPE, value, np.float32)} for value in (1.0, -1.0))


def test_calibration_cost_counts_tensors_and_their_bytes():
    """Input, convolution, activation and output: four tensors of float32."""
    cost = calibration_cost(small())
    sizes = (3 * 256, 8 * 256, 8 * 256, 8)
    assert (cost.tensors, cost.sample_bytes, cost.unsized, cost.turns) == (4, 4 * sum(sizes), 0, 1)


def test_calibration_cost_of_free_dimensions_names_what_is_not_counted():
    """A tensor whose size only a run tells is counted, not guessed."""
    cost = calibration_cost(small("1,3,h,16"))
    assert cost.tensors == 4
    assert 0 < cost.unsized < 4


@pytest.mark.parametrize("budget", [1e9, 80_000.0])
def test_calibration_cost_tells_how_often_the_samples_run(tmp_path, budget):
    """As often as calibration then really reads them: more than once where the budget is small."""
    feeds = Feeds()
    observe(small(), feeds, workdir=tmp_path, memory_budget=budget)
    assert calibration_cost(small(), budget).turns == feeds.read
    assert (feeds.read > 1) == (budget < 1e9)


def test_calibration_cost_refuses_a_budget_too_small_for_one_tensor():
    """The same error as the calibration itself, before it."""
    with pytest.raises(BadInput, match="memory budget"):
        calibration_cost(small(), 1000.0)
