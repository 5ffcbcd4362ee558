"""Nodes that do nothing go, and no others."""

import numpy as np
import pytest

from converters.passes.remove_no_ops import remove_no_ops
from tests.converters.passes.graphs import apply, model, ops

NUMBERS = {
    "one": np.array([1], np.float32),
    "zero": np.array(0, np.float32),
    "wide": np.ones((2, 2, 3), np.float32),
    "two": np.array([2], np.float32),
    "begin": np.array([0, 0], np.int64),
    "end": np.array([2**31 - 1, 2**31 - 1], np.int64),
    "early": np.array([1, 3], np.int64),
    "axes": np.array([0, 1], np.int64),
    "back": np.array([-1, -1], np.int64),
    "front": np.array([0], np.int64),
    "same": np.array([2, 3], np.int64),
    "pads": np.array([0, 0, 0, 0], np.int64),
    "flat": np.array([6], np.int64),
    "other": np.array([3, 2], np.int64),
    "lowest": np.array(-np.inf, np.float32),
    "highest": np.array([np.inf], np.float32),
}
NO_OPS = {
    "Identity": "Identity(r)",
    "Mul by 1": "Mul(one, r)",
    "Div by 1": "Div(r, one)",
    "Add of 0": "Add(r, zero)",
    "Sub of 0": "Sub(r, zero)",
    "Max with -inf": "Max(lowest, r)",
    "Min with inf": "Min(r, highest)",
    "Cast": "Cast<to = 1>(r)",
    "Transpose": "Transpose<perm = [0, 1]>(r)",
    "Slice": "Slice(r, begin, end, axes)",
    "Reshape": "Reshape(r, same)",
    "Expand": "Expand(r, same)",
    "Concat": "Concat<axis = 0>(r)",
    "Pad": "Pad(r, pads)",
    "Dropout": "Dropout(r)",
}
USEFUL = {
    "Mul by 2": "Mul(r, two)",
    "0 - x": "Sub(zero, r)",
    "1 / x": "Div(one, r)",
    "Max with 2": "Max(r, two)",
    "Max with inf": "Max(r, highest)",
    "Min with -inf": "Min(lowest, r)",
    "Max of three": "Max(r, lowest, two)",
    "widening Mul": "Mul(r, wide)",
    "Cast to double": "Cast<to = 11>(r)",
    "Transpose": "Transpose<perm = [1, 0]>(r)",
    "shorter Slice": "Slice(r, begin, early, axes)",
    "Reshape": "Reshape(r, other)",
    "Concat of two": "Concat<axis = 0>(r, r)",
}


def graph(nodes, result="float", outputs="y"):
    used = {name: value for name, value in NUMBERS.items() if name in nodes}
    outs = ", ".join(f"{result}[a, b] {name}" if name == "y" else f"float[2, 3] {name}" for name in outputs.split())
    return model(f"g (float[2, 3] x) => ({outs}) {{ {nodes} }}", **used)


@pytest.mark.parametrize("node", NO_OPS.values(), ids=NO_OPS)
def test_node_that_does_nothing_is_removed(node):
    """The node goes, the output keeps its name."""
    cleaned = graph(f"r = Relu(x) y = {node}")
    apply(remove_no_ops, cleaned, changes=1)
    assert ops(cleaned) == {"Relu": 1}


@pytest.mark.parametrize("node", USEFUL.values(), ids=USEFUL)
def test_node_that_does_something_stays(node):
    """A node that changes values, type, order or shape is no no-op."""
    used = {name: value for name, value in NUMBERS.items() if name in node}
    shape = "a, b, c" if "wide" in node else "a, b"
    kind = "double" if "11" in node else "float"
    cleaned = model(f"g (float[2, 3] x) => ({kind}[{shape}] y) {{ r = Relu(x) y = {node} }}", **used)
    apply(remove_no_ops, cleaned, changes=0)


def test_identity_between_input_and_output_stays():
    """An input cannot take the name of an output."""
    apply(remove_no_ops, graph("y = Identity(x)"), changes=0)


def test_identity_between_two_outputs_stays():
    """Each output keeps its own value."""
    apply(remove_no_ops, graph("r = Relu(x) y = Identity(r)", outputs="r y"), changes=0)


def test_identity_at_the_end_of_a_branch_is_removed_only_when_its_source_is_in_the_branch():
    """A branch's output must be made in the branch."""
    branches = model(
        """g (bool c, float[2, 3] x) => (float[2, 3] y) { r = Relu(x)
        y = If(c) <then_branch = t () => (float[2, 3] p) { p = Identity(r) },
                   else_branch = e () => (float[2, 3] q) { n = Neg(r) q = Identity(n) }> }"""
    )
    apply(remove_no_ops, branches, changes=1)
    assert ops(branches) == {"Relu": 1, "If": 1, "Identity": 1, "Neg": 1}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("r = Relu(x) t = Transpose<perm = [1, 0]>(r) y = Transpose<perm = [1, 0]>(t)", {"Relu": 1}),
        ("r = Relu(x) t = Reshape(r, flat) y = Reshape(t, other)", {"Relu": 1, "Reshape": 1}),
        ("r = Relu(x) t = Unsqueeze(r, front) y = Squeeze(t, front)", {"Relu": 1}),
    ],
)
def test_chains_of_layout_nodes_merge(nodes, expected):
    """Two moves become one, and none where they cancel."""
    merged = graph(nodes)
    apply(remove_no_ops, merged)
    assert ops(merged) == expected


def test_reshape_chain_with_one_unknown_dimension_merges():
    """An unknown batch becomes -1."""
    merged = model(
        "g (float[n, 6] x) => (float[n, 2, 3] y) { t = Reshape(x, one) r = Reshape(t, two) y = Relu(r) }",
        one=np.array([-1, 1, 6]),
        two=np.array([-1, 2, 3]),
    )
    apply(remove_no_ops, merged, changes=1)
    assert ops(merged) == {"Reshape": 1, "Relu": 1}


def test_transpose_that_moves_only_dimensions_of_one_becomes_a_reshape():
    """No number moves in memory."""
    moved = model("g (float[2, 1, 3] x) => (float[2, 3, 1] y) { t = Transpose<perm = [0, 2, 1]>(x) y = Relu(t) }")
    apply(remove_no_ops, moved, changes=1)
    assert ops(moved) == {"Reshape": 1, "Relu": 1}


def transposes(shape, first, middle, second, axis):
    nodes = f"r = Relu(x) t = Transpose<perm = {first}>(r) u = {middle} v = Transpose<perm = {second}>(u) y = Relu(v)"
    outs = ", ".join("abcde"[: second.count(",") + 1])
    return model(f"g (float[{shape}] x) => (float[{outs}] y) {{ {nodes} }}", axis=np.array(axis))


@pytest.mark.parametrize(
    ("shape", "first", "middle", "second", "axis"),
    [
        ("2, 5, 3", "[0, 2, 1]", "Unsqueeze(t, axis)", "[0, 2, 1, 3]", [3]),
        ("n, 5, 3", "[0, 2, 1]", "Unsqueeze(t, axis)", "[0, 2, 1, 3]", [3]),
        ("2, 5, 1, 3", "[0, 3, 1, 2]", "Squeeze(t, axis)", "[0, 2, 1]", [3]),
        ("2, 5, 3", "[0, 2, 1]", "Reshape(t, axis)", "[0, 1, 3, 2]", [2, 1, 3, 5]),
        ("4, 4, 4", "[1, 2, 0]", "Unsqueeze(t, axis)", "[0, 3, 1, 2]", [0]),
    ],
)
def test_transposes_that_undo_each_other_around_a_reshape_of_ones_become_one_reshape(
    shape, first, middle, second, axis
):
    """No number moves in memory, whatever dimensions of 1 came or went in between."""
    merged = transposes(shape, first, middle, second, axis)
    apply(remove_no_ops, merged, changes=1)
    assert ops(merged) == {"Relu": 2, "Reshape": 1}


@pytest.mark.parametrize(
    ("shape", "first", "middle", "second", "axis"),
    [
        ("2, 5, 3", "[0, 2, 1]", "Unsqueeze(t, axis)", "[2, 0, 1, 3]", [3]),
        ("2, 5, 3", "[0, 2, 1]", "Reshape(t, axis)", "[0, 2, 1]", [2, 5, 3]),
        ("2, 6, 4", "[0, 2, 1]", "Reshape(t, axis)", "[0, 2, 1, 3]", [2, 4, 3, 2]),
        ("4, 4, 4", "[1, 2, 0]", "Unsqueeze(t, axis)", "[0, 2, 3, 1]", [0]),
    ],
    ids=["no way back", "dimensions changed places", "a dimension was split", "three times round"],
)
def test_transposes_around_a_reshape_that_do_not_undo_each_other_stay(shape, first, middle, second, axis):
    """Numbers do move."""
    merged = transposes(shape, first, middle, second, axis)
    apply(remove_no_ops, merged, changes=0)
    assert ops(merged)["Transpose"] == 2
