"""Turn a PaddlePaddle inference model into ONNX with paddle2onnx, and run the model itself with Paddle.

paddle2onnx 2 reads the PIR programs of Paddle 3 (`.json`), paddle2onnx 1 the older ones (`.pdmodel`); each lives in an
environment of its own. It ends the process when it meets what it does not know, so it runs in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protocol import Failed, Request, answer, progress, samples, serve, tools

OPSET = 17

RENAMED = {
    "add": "elementwise_add",
    "add_n": "sum",
    "all": "reduce_all",
    "any": "reduce_any",
    "arange": "range",
    "argmax": "arg_max",
    "argmin": "arg_min",
    "assign_value_": "assign_value",
    "batch_norm_": "batch_norm",
    "divide": "elementwise_div",
    "expand": "expand_v2",
    "flatten": "flatten_contiguous_range",
    "floor_divide": "elementwise_floordiv",
    "grid_sample": "grid_sampler",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "matmul": "matmul_v2",
    "max": "reduce_max",
    "maximum": "elementwise_max",
    "mean": "reduce_mean",
    "min": "reduce_min",
    "minimum": "elementwise_min",
    "multiply": "elementwise_mul",
    "nonzero": "where_index",
    "numel": "size",
    "prod": "reduce_prod",
    "remainder": "elementwise_mod",
    "repeat_interleave_with_tensor_index": "repeat_interleave",
    "subtract": "elementwise_sub",
    "sum": "reduce_sum",
    "topk": "top_k_v2",
    "unsqueeze": "unsqueeze2",
}
"""PIR name of an op -> the older name under which paddle2onnx lists it (its `convert_pir_op_name`)."""

STRUCTURE = {"data", "feed", "fetch", "if", "while", "print", "conditional_block", "select_input"}
"""Ops that paddle2onnx treats apart from its list."""

CONVERT = """
import sys, paddle2onnx
faster = {} if paddle2onnx.__version__.startswith("1.") else {"optimize_tool": "none"}
paddle2onnx.export(*sys.argv[1:4], opset_version=int(sys.argv[4]), **faster)
"""
"""`optimize_tool`: its default, polygraphy, takes half a minute, and may call pip to install packages."""


def export(request: Request) -> None:
    """Write model.onnx; inputs and outputs keep the names that Paddle gives them."""
    program, params = _files(request)
    _check_converter(program)
    progress("reading the Paddle program")
    _check_loads(program, params)
    progress("converting with paddle2onnx")
    model = Path(request["out"]) / "model.onnx"
    if program.suffix == ".json":
        plain = _with_float_arrays(program, model.with_name("program.json"))
        _convert(plain, params, model, program)
        plain.unlink()
    else:
        _convert(program, params, model, program)
    import paddle

    versions = tools("paddlepaddle", "paddlepaddle-gpu", "paddle2onnx")
    answer(request, model="model.onnx", framework=f"paddle {paddle.__version__}", tools=versions)


def run(request: Request) -> None:
    """Write, for each sample, what paddle.inference answers."""
    import numpy as np

    predictor = _predictor(*_files(request))
    for file, feeds in samples(request):
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(feeds[name]))
        predictor.run()
        np.savez(
            file, **{name: predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()}
        )


def _check_converter(program: Path) -> None:
    """Raise MissingExtra where the paddle2onnx of this interpreter reads the other kind of program."""
    found = tools("paddle2onnx").get("paddle2onnx", "none")
    wanted, environment = ("1", "paddle2") if program.suffix == ".pdmodel" else ("2", "paddle")
    if found.split(".")[0] != wanted:
        raise Failed(
            f"{program}: this kind of program needs paddle2onnx {wanted}, and {sys.executable} has {found}",
            f"edgert sources install {environment}   (and run edgert with a Python that has no paddle2onnx)",
            kind="MissingExtra",
        )


def _files(request: Request) -> tuple[Path, Path]:
    program = Path(request["path"])
    return program, program.with_suffix(".pdiparams")


def _check_loads(program: Path, params: Path) -> None:
    """Raise BadInput where Paddle itself cannot load the program with its parameters."""
    try:
        _predictor(program, params)
    except Exception as exc:  # Paddle raises RuntimeError, ValueError, OSError and its own for a file it cannot read
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("(")), lines[-1] if lines else type(exc).__name__)
        raise Failed(
            f"{program}: Paddle cannot load this program with its .pdiparams: {said[:300]}",
            "copy both files again from where they were saved; they belong together",
        ) from exc


def _predictor(program: Path, params: Path) -> Any:
    from paddle import inference

    config = inference.Config(str(program), str(params))
    config.disable_gpu()
    config.disable_glog_info()
    # The reference is the program as it stands, not what fusion and oneDNN make of it.
    config.switch_ir_optim(False)
    config.disable_mkldnn()
    return inference.create_predictor(config)


def _with_float_arrays(program: Path, copy: Path) -> Path:
    """Write the program with its float64 lists as float32 ones: paddle2onnx 2.1.0 takes no others.

    They are the `scale` of interpolations, which Paddle 3.0 to 3.3 keeps as float64.
    """
    text = json.loads(program.read_text(encoding="utf-8"))
    for op in _ops(text["program"]):
        for attribute in op["A"] if isinstance(op["A"], list) else ():
            value = attribute.get("AT", {}) if isinstance(attribute, dict) else {}
            if value.get("#") == "0.a_array":
                for item in value["D"]:
                    item["#"] = {"0.a_f64": "0.a_f32"}.get(item["#"], item["#"])
    copy.write_text(json.dumps(text), encoding="utf-8")
    return copy


def _ops(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the ops of a program in order, those of nested blocks after the op that holds them."""
    for region in part.get("regions", ()):
        for block in region.get("blocks", ()):
            for op in block.get("ops", ()):
                yield op
                yield from _ops(op)


def _convert(readable: Path, params: Path, model: Path, program: Path) -> None:
    """Run paddle2onnx on `readable`, which is `program` or its copy; raise GateFailed with what it said."""
    command = [sys.executable, "-c", CONVERT, str(readable), str(params), str(model), str(OPSET)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    sys.stderr.write(said)
    if done.returncode == 0 and model.is_file() and model.stat().st_size:
        return
    unknown = _unknown_ops(readable) if "unsupported operators" in said else []
    lines = [line.strip() for line in said.splitlines() if "ERROR" in line or "Error:" in line or "failed" in line]
    why = f"does not know {'; '.join(unknown)}" if unknown else f"says: {' '.join(lines[:3]) or done.returncode}"
    raise Failed(
        f"{program}: it cannot become ONNX, paddle2onnx {why}",
        "replace the layer before the model is saved, or export ONNX another way",
        kind="GateFailed",
    )


def _unknown_ops(program: Path) -> list[str]:
    """Return a line for each op that paddle2onnx does not list, with its place in the program."""
    import paddle2onnx.paddle2onnx_cpp2py_export as compiled

    if program.suffix == ".pdmodel":
        known, ops = set(compiled.get_all_supported_operators()), _old_ops(program)
    else:
        known, ops = set(compiled.get_all_supported_operators_pir()), _pir_ops(program)
    lines = [
        f"op '{name}' {place}" for name, place in ops if name not in STRUCTURE and not {name, RENAMED.get(name)} & known
    ]
    return list(dict.fromkeys(lines))


def _old_ops(program: Path) -> Iterator[tuple[str, str]]:
    """Yield for each op of a `.pdmodel` its name, and the values it makes, which carry the names of their layers."""
    import paddle

    with paddle.pir_utils.OldIrGuard():
        old = paddle.static.Program.parse_from_string(program.read_bytes())
    for block in old.blocks:
        for op in block.ops:
            yield op.type, f"that makes '{', '.join(op.output_arg_names)}'"


def _pir_ops(program: Path) -> Iterator[tuple[str, str]]:
    """Yield for each op of Paddle's own dialect its name and its layer, or the last one before it."""
    last = ""
    for op in _ops(json.loads(program.read_text(encoding="utf-8"))["program"]):
        dialect, _, name = op["#"].partition(".")
        attributes = {item["N"]: item["AT"].get("D") for item in op["A"] if isinstance(item, dict)}
        layer = attributes.get("struct_name", "")
        last = layer or last
        if dialect == "1":
            yield name, f"in layer '{layer}'" if layer else f"after layer '{last}'" if last else "before any layer"


if __name__ == "__main__":
    serve(export=export, run=run)
