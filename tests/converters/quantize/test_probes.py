"""The graph with probes."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from converters.quantize.probes import SAMPLED, TURN, probes, sampling_step, with_probes
from edgert.runtime.session import Session
from tests.converters.quantize.nets import CPU, Array, net, normal


def test_sampling_step_leaves_the_wanted_values_and_is_odd():
    """Between one and two times SAMPLED values are left, all where there are no more, in odd steps."""
    for elements in (2 * SAMPLED, 640 * 640 * 3, 32 * 320 * 320, 1 << 26, 10**9 + 7):
        step = sampling_step(elements)
        assert 0.5 * SAMPLED < elements / step <= 2 * SAMPLED
        assert step % 2 == 1
    assert sampling_step(2 * SAMPLED - 1) == 1


@pytest.mark.parametrize("columns", ["70000", "N"])
def test_with_probes_turns_meet_every_place_of_a_tensor(columns, tmp_path):
    """As the start moves on, the samples of a tensor become all its values, each once, of fixed size or not."""
    model = net("y = Neg (x)", f"float[1,{columns}] x", "float[1,M] y", {})
    wanted = probes(model)
    ir.save(with_probes(model, wanted), tmp_path / "p.onnx")
    x = np.arange(70_000, dtype=np.float32)[None]
    with Session.open(tmp_path / "p.onnx", CPU, threads=1) as session:
        runs = [session.run({"x": x, TURN: np.array([turn], np.int64)}) for turn in range(sampling_step(70_000))]
    seen = np.concatenate([outputs[wanted[0].output("values")] for outputs in runs])
    assert np.array_equal(np.sort(seen), x[0])
    assert all(outputs[wanted[1].output("minimum")] == -69_999 for outputs in runs)


def test_with_probes_tensors_are_freed_as_soon_as_they_are_reduced(tmp_path):
    """A long chain of large tensors runs in the memory of a few: each probe runs before the next tensor is made."""
    body = " ".join(f"t{i + 1} = Sin (t{i})" for i in range(40))
    model = net(body, "float[1,262144] t0", "float[1,262144] t40", {})
    ir.save(with_probes(model, probes(model)), tmp_path / "p.onnx")
    order = _order_of_runs(tmp_path / "p.onnx", {"t0": normal(1, 262_144), TURN: np.zeros(1, np.int64)})
    sines = [place for place, op_type in enumerate(order) if op_type == "Sin"]
    first_reductions = [place for place, op_type in enumerate(order) if op_type == "ReduceMin"]
    assert len(sines) == 40
    assert all(reduction < sine for reduction, sine in zip(first_reductions, sines[1:], strict=False))


def _order_of_runs(path: Path, feeds: dict[str, Array]) -> list[str]:
    """Return the op types in the order in which ONNX Runtime ran them."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
