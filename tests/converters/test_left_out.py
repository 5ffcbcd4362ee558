"""A candidate that onnxruntime cannot load is left out, with its reason, and the search goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import onnx_ir as ir
import pytest

from converters.candidates.mixed import search
from converters.candidates.trial import Draft
from converters.job import Job, Written
from converters.request import Candidate
from edgert.profile import list_profiles, load_profile
from edgert.runtime.session import NotAModel, Session
from tests.converters.quantize.nets import CPU, normal

CPU_PROFILES = [name for name in list_profiles() if load_profile(name).processor == "cpu"]


def _float_product_between_integers(opset: int) -> onnx.ModelProto:
    """Return what mixed precision writes around a matrix product in float: microsoft/onnxruntime#25526."""
    body = """
    q = QuantizeLinear (x, step, zero) d = DequantizeLinear (q, step, zero) t = Transpose <perm = [0,2,1]> (d)
    m = MatMul (t, w) a = Add (m, b) p = QuantizeLinear (a, step, zero) y = DequantizeLinear (p, step, zero)
    """
    constants = "<float step = {0.05}, int8 zero = {3}, float[2] b = {1.0, 2.0}, float[2,2] w = {1.0, 2.0, 3.0, 4.0}>"
    head = f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[1,2,2] x) => (float[1,2,2] y)'
    return onnx.parser.parse_model(f"{head} {constants} {{ {body} }}")


def _saved(folder: Path, model: onnx.ModelProto, name: str) -> Written:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return Written(ir.load(path), path, path.stat().st_size)


@pytest.mark.parametrize("name", CPU_PROFILES)
def test_opset_of_a_cpu_profile_loads_where_integers_surround_a_float_product(name: str, tmp_path: Path) -> None:
    """int8 activations, a float Transpose, MatMul and Add, int8 again, in the opset that the converter writes."""
    written = _saved(tmp_path, _float_product_between_integers(load_profile(name).opset), "mixed")
    with Session.open(written.path, CPU) as session:
        assert session.run({"x": normal(1, 2, 2)})["y"].shape == (1, 2, 2)


def test_search_leaves_out_what_cannot_be_loaded_and_goes_on(tmp_path: Path) -> None:
    """Sizes 2 and 8 cannot be loaded: 4 fails the gate, 16 holds it, and both refusals are told with their reason."""
    broken, sound = _float_product_between_integers(20), _float_product_between_integers(20)
    broken.graph.node[0].op_type = "NoSuchOperator"
    files = {size: _saved(tmp_path, broken if size in (2, 8) else sound, f"size-{size}") for size in (2, 4, 8, 16)}
    gates = {"size-4": 0.5, "size-16": 0.995}
    shared = SimpleNamespace(hints={})

    def parity_of(label: str, *_: object) -> dict[str, object]:
        return {"label": label}

    stub: Any = SimpleNamespace(
        shared=shared,
        request=SimpleNamespace(max_drop=0.01),
        open_cpu=lambda path: Session.open(path, CPU),
        parity_of=parity_of,
        evaluate=lambda run: None,
        gate=lambda parity, score: gates[parity["label"]],
        holds=lambda gate: gate >= 0.99,
    )
    left_out: list[Candidate] = []

    def draft_of(size: int) -> tuple[Draft, frozenset[str]] | None:
        if size not in files:
            return None
        return Draft(f"size-{size}", "qdq-s8s8", "mixed", files[size], {}), frozenset(map(str, range(size)))

    found = []
    for trial in search(cast(Job, stub), 100, draft_of, "hint", left_out):
        trial.session.close()
        found.append((trial.label, trial.gate))
    assert found == [("size-4", 0.5), ("size-16", 0.995)]
    assert [one.variant for one in left_out] == ["size-2", "size-8"]
    assert all("cannot be loaded" in one.outcome and "NoSuchOperator" in one.outcome for one in left_out)
    assert shared.hints == {"hint": 16}


def test_search_skips_a_size_that_spares_the_same_layers(tmp_path: Path) -> None:
    """4 spares what 2 did, so it is not run again; 8 is."""
    written = _saved(tmp_path, _float_product_between_integers(20), "same")
    stub: Any = SimpleNamespace(
        shared=SimpleNamespace(hints={}),
        request=SimpleNamespace(max_drop=0.01),
        open_cpu=lambda path: Session.open(path, CPU),
        parity_of=lambda *_: {},
        evaluate=lambda run: None,
        gate=lambda *_: 0.5,
        holds=lambda gate: False,
    )

    def draft_of(size: int) -> tuple[Draft, frozenset[str]]:
        return Draft(f"size-{size}", "qdq-s8s8", "mixed", written, {}), frozenset({"a", "b"} if size < 8 else {"c"})

    labels = []
    for trial in search(cast(Job, stub), 10, draft_of, "hint", []):
        trial.session.close()
        labels.append(trial.label)
    assert labels == ["size-2", "size-8"]


def test_draft_that_cannot_be_loaded_raises_where_it_is_not_left_out(tmp_path: Path) -> None:
    """A recipe that is replayed has one candidate: that it cannot be loaded is an error there."""
    broken = _float_product_between_integers(20)
    broken.graph.node[0].op_type = "NoSuchOperator"
    stub: Any = SimpleNamespace(open_cpu=lambda path: Session.open(path, CPU))
    with pytest.raises(NotAModel, match="NoSuchOperator"):
        Draft("one", "qdq-s8s8", "int8", _saved(tmp_path, broken, "one"), {}).open(cast(Job, stub))
