"""Which tensors cost the accuracy: asked in few runs, and of a graph whose rounding can be switched."""

import numpy as np
import pytest

from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from converters.quantize.sensitivity import open_switchboard, rank_tensors
from tests.converters.quantize.nets import CPU, U8S8, conv_net, cosine, images, ranges_of, run

NAMES = tuple(f"t{number}" for number in range(128))


def _costs(**costs: float):
    calls: list[frozenset[str]] = []

    def error(on: frozenset[str]) -> float:
        calls.append(on)
        return sum(costs.get(name, 1e-9) for name in on)

    return error, calls


def test_rank_tensors_finds_the_costly_ones_in_few_runs():
    """Of 128 tensors the three that matter come first, with their own errors, in far fewer than 128 runs."""
    error, calls = _costs(t3=0.02, t70=0.5, t71=0.1)
    ranked = rank_tensors(NAMES, error, least=1e-4, runs=90)
    assert [one.name for one in ranked[:3]] == ["t70", "t71", "t3"]
    assert [one.error for one in ranked[:3]] == pytest.approx([0.5, 0.1, 0.02])
    assert all(one.alone for one in ranked[:3])
    assert not ranked[5].alone
    assert len(calls) < 45
    assert sorted(one.name for one in ranked) == sorted(NAMES)


def test_rank_tensors_out_of_runs_still_names_all():
    """With ten runs the groups stay large; nothing is lost, and the costly group is in front."""
    error, calls = _costs(t70=0.5)
    ranked = rank_tensors(NAMES, error, least=1e-4, runs=10)
    assert len(calls) <= 10
    assert sorted(one.name for one in ranked) == sorted(NAMES)
    assert "t70" in [one.name for one in ranked[:16]]


def test_rank_tensors_nothing_that_costs_is_one_run():
    """Where all tensors together cost nothing, no group is split, and the order is that of the graph."""
    error, calls = _costs()
    assert [one.name for one in rank_tensors(NAMES, error, least=1e-4, runs=90)] == list(NAMES)
    assert len(calls) == 1


def test_rank_tensors_error_that_falls_counts_as_none():
    """Rounding can bring outputs nearer by chance: that is no negative cost."""
    assert [one.error for one in rank_tensors(("a", "b"), lambda on: -1.0, least=0.0, runs=9)] == [0.0, 0.0]


def test_switchboard_all_on_is_the_quantized_model(tmp_path):
    """With every switch on the float graph gives what the Q/DQ model gives, up to the rounding of sums."""
    model, samples = conv_net(), images(3)
    plan = plan_quantization(model, ranges_of(model, samples, tmp_path), U8S8)
    quantized = apply_qdq(model, plan)
    with open_switchboard(model, plan, tmp_path, CPU, 1) as board:
        for sample in samples:
            real = run(quantized, sample, tmp_path)["y"]
            assert cosine(board.run(sample, board.names)["y"], real) > 0.9999


def test_switchboard_one_on_rounds_that_tensor_only(tmp_path):
    """All off leaves the weights' rounding; one on changes the outputs, and less than all of them."""
    model, samples = conv_net(), images(1)
    plan = plan_quantization(model, ranges_of(model, images(8), tmp_path), U8S8)
    exact = run(model, samples[0], tmp_path)["y"]
    with open_switchboard(model, plan, tmp_path, CPU, 1) as board:
        errors = [float(np.abs(board.run(samples[0], on)["y"] - exact).max()) for on in ((), ("r",), board.names)]
        weights = board.run(samples[0], ())["y"]
        assert not np.array_equal(weights, board.run(samples[0], ("r",))["y"])
    assert 0 < errors[0] < errors[2]
    assert errors[1] < errors[2]


def test_switchboard_leaves_the_model_as_it_was(tmp_path):
    """The graph is copied: the float variant is still needed."""
    model = conv_net()
    names = [node.name for node in model.graph]
    plan = plan_quantization(model, ranges_of(model, images(2), tmp_path), U8S8)
    with open_switchboard(model, plan, tmp_path, CPU, 1):
        pass
    assert [node.name for node in model.graph] == names
    assert [value.name for value in model.graph.inputs] == ["x"]
