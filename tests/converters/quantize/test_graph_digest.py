"""The digest under which statistics are kept."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.graph_digest import graph_digest
from tests.converters.quantize.nets import conv_net, net

SHAPES = {"x": (1, 4)}


def _net(
    body: str = "y = LeakyRelu <alpha = 0.5> (x) z = Add (y, w)", size: str = "4", weight: float = 1.0
) -> ir.Model:
    return net(body, f"float[1,{size}] x", f"float[1,{size}] z", {"w": np.full(4, weight, np.float32)})


def test_graph_digest_of_the_same_graph_made_twice_is_the_same():
    """Nothing of the process or the order of making is in the digest, and names of nodes are not."""
    renamed = _net()
    for node in renamed.graph:
        node.name = f"other-{node.name}"
    assert graph_digest(_net(), SHAPES) == graph_digest(_net(), SHAPES) == graph_digest(renamed, SHAPES)
    assert graph_digest(conv_net(), {}) == graph_digest(conv_net(), {})


@pytest.mark.parametrize(
    "other",
    [
        _net(weight=1.5),
        _net("y = LeakyRelu <alpha = 0.25> (x) z = Add (y, w)"),
        _net("y = LeakyRelu <alpha = 0.5> (x) z = Sub (y, w)"),
        _net("y = LeakyRelu <alpha = 0.5> (x) z = Add (w, y)"),
        _net("y2 = LeakyRelu <alpha = 0.5> (x) z = Add (y2, w)"),
        net(
            "y = LeakyRelu <alpha = 0.5> (x) z = Add (y, w)",
            "float[1,4] x",
            "float[1,4] z",
            {"w": np.ones(4, np.float32)},
            19,
        ),
    ],
)
def test_graph_digest_differs_with_whatever_changes_a_value(other):
    """Weights, attributes, operators, the order of inputs, the names of tensors and the opset count."""
    assert graph_digest(other, SHAPES) != graph_digest(_net(), SHAPES)


def test_graph_digest_free_and_fixed_input_sizes_are_the_same_where_the_samples_have_them():
    """An input whose fixed shape all samples have gives the values that a free one gives; another shape does not."""
    assert graph_digest(_net(size="N"), SHAPES) == graph_digest(_net(size="4"), SHAPES)
    assert graph_digest(_net(size="N"), {}) != graph_digest(_net(size="4"), {})


def test_graph_digest_weights_beside_the_graph_count_like_those_inside(tmp_path):
    """Where the bytes lie makes no difference."""
    ir.save(conv_net(), tmp_path / "a.onnx", external_data="a.bin", size_threshold_bytes=0)
    assert graph_digest(ir.load(tmp_path / "a.onnx"), {}) == graph_digest(conv_net(), {})


def test_graph_digest_sees_into_subgraphs():
    """A branch that differs makes another graph."""
    then = "then_branch = t () => (float[1,4] p) {{ p = {0} (x) }}"
    branches = f"{then}, else_branch = e () => (float[1,4] q) {{{{ q = Neg (x) }}}}"
    body = f"c = ReduceSum <keepdims = 0> (x) b = Cast <to = 9> (c) z = If (b) <{branches}>"
    one, other = (net(body.format(op), "float[1,4] x", "float[1,4] z", {}) for op in ("Abs", "Exp"))
    assert graph_digest(one, SHAPES) != graph_digest(other, SHAPES)
