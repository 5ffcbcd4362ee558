"""Seconds, memory and error of storing a model's weights in 4-bit blocks: ours beside onnxruntime's quantizer.

    python -m tests.bench_weight_only

The model is a stack of MatMuls with its weights in an external file. Every row is a child process that reads, quantizes
and writes; "seconds" is that, "process" counts its start and imports too, in which all rows are alike, and "CPU" is
what all its threads worked. The rows of one round run one after the other, rounds repeat, and the table has medians; a
figure without its neighbours means nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from edgert.commands.printing import table
from edgert.host import host_facts, usable_cores
from tests.bench_weight_only_child import main as _child
from tests.block_weights import stored_weights

CHILD = Path(str(sys.modules[_child.__module__].__file__))
OURS, THEIRS = "edgert", "onnxruntime"
SLOWEST = "k_quant"
SLOW_PATHS = ("rtn", SLOWEST)
COMPARED = 2
"""Of so many weights the error is measured: all are drawn alike."""


@dataclass(frozen=True)
class Way:
    """One row: the tool, what it is called there, its options, and how often it runs."""

    tool: str
    name: str
    options: dict[str, Any] = field(hash=False)


@dataclass
class Cost:
    """What the child processes of one row took, and the mean squared error of the weights that they wrote."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    error: float = float("nan")


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 where one of the promises of the last lines is not kept."""
    options = _options(arguments)
    facts = host_facts()
    print(
        f"{facts.cpu_name}, {usable_cores()} threads, {options.rounds} rounds, block {options.block_size}", flush=True
    )
    rows = [way for way in ways(options.block_size) if options.slow_rounds or way.options.get("algorithm") != SLOWEST]
    costs = {way: Cost() for way in rows}
    with tempfile.TemporaryDirectory() as folder:
        source = write_stack(Path(folder), options.layers, options.side)
        for number in range(options.rounds):
            for way, cost in costs.items():
                if number < options.slow_rounds or way.options.get("algorithm") != SLOWEST:
                    run(way, cost, source)
    header = ("tool", "format", "seconds", "of them", "process", "CPU", "peak MB", "mean squared error", "load before")
    print(table(header, [_row(*pair) for pair in costs.items()]))
    return _verdict(costs)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_weight_only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--slow-rounds", type=int, default=1, help="rounds of onnxruntime's k-quant, which takes minutes"
    )
    parser.add_argument("--block-size", type=int, default=128, help="for all rows; 128 is onnxruntime's default")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--side", type=int, default=4096)
    return parser.parse_args(arguments)


def ways(block_size: int) -> list[Way]:
    """Return the rows in the order in which a round runs them."""
    shared = {"block_size": block_size}
    ours = {
        "int4 symmetric": {"bits": 4},
        "int4 asymmetric": {"bits": 4, "symmetric": False},
        "int4 asymmetric, refined": {"bits": 4, "symmetric": False, "refine": True},
        "int8 symmetric": {"bits": 8},
    }
    theirs = {
        "int4 default (asymmetric)": {"algorithm": ""},
        "int4 symmetric": {"algorithm": "", "is_symmetric": True},
        "int4 RTN": {"algorithm": "rtn"},
        "int4 k-quant": {"algorithm": "k_quant"},
    }
    rows = [Way(OURS, name, {**shared, **options}) for name, options in ours.items()]
    return rows + [Way(THEIRS, name, {**shared, **options}) for name, options in theirs.items()]


def write_stack(folder: Path, layers: int, side: int) -> Path:
    """Write a stack of MatMuls with float32 weights [side, side] in `stack.bin`; a few are ten times the rest."""
    names = ["x", *(f"h{number}" for number in range(layers))]
    nodes = [
        helper.make_node("MatMul", [names[number], f"w{number}"], [names[number + 1]], name=f"MatMul_{number}")
        for number in range(layers)
    ]
    tensors = []
    with (folder / "stack.bin").open("wb") as file:
        for number in range(layers):
            draw = np.random.default_rng(number)
            weights = draw.standard_normal((side, side), dtype=np.float32) * np.float32(0.02)
            weights[draw.integers(side, size=side), draw.integers(side, size=side)] *= 10
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=weights.shape)
            tensor.raw_data = b""
            set_external_data(tensor, "stack.bin", offset=file.tell(), length=weights.nbytes)
            tensor.ClearField("raw_data")
            tensors.append(tensor)
            file.write(weights.data)
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["n", side]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], tensors)
    path = folder / "stack.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def run(way: Way, cost: Cost, source: Path) -> None:
    """Run one child process and note what it took."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        target = Path(folder) / "stored.onnx"
        wanted = {"tool": way.tool, "source": str(source), "target": str(target), "options": way.options}
        cost.load.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(CHILD), json.dumps(wanted)], capture_output=True, text=True, check=True
        )
        cost.process.append(time.perf_counter() - start)
        told = json.loads(done.stdout.splitlines()[-1])
        cost.seconds.append(told["seconds"])
        cost.cpu_seconds.append(told["cpu_seconds"])
        cost.peak_bytes.append(told["peak_bytes"])
        if np.isnan(cost.error):
            cost.error = mean_squared_error(source, target)
    print(f"  {way.tool} {way.name}: {cost.seconds[-1]:.2f} s, load {cost.load[-1]:.1f}", flush=True)


def mean_squared_error(source: Path, target: Path) -> float:
    """Return the mean of (stored - weight)^2 over the first weights."""
    graph = onnx.load(source, load_external_data=False).graph
    errors = []
    for tensor, stored in zip(graph.initializer, islice(stored_weights(onnx.load(target)), COMPARED), strict=False):
        place = {entry.key: entry.value for entry in tensor.external_data}
        weights = np.memmap(
            source.with_name(place["location"]), np.float32, "r", int(place["offset"]), tuple(tensor.dims)
        )
        errors.append(float(np.mean(np.square(stored - weights), dtype=np.float64)))
    return statistics.mean(errors)


def _row(way: Way, cost: Cost) -> tuple[str, ...]:
    peak, load = statistics.median(cost.peak_bytes), statistics.median(cost.load)
    seconds, process, cpu = (f"{statistics.median(one):.2f}" for one in (cost.seconds, cost.process, cost.cpu_seconds))
    each = " ".join(f"{one:.1f}" for one in cost.seconds)
    figures = (seconds, each, process, cpu, f"{peak / 1e6:.0f}", f"{cost.error:.3e}", f"{load:.1f}")
    return way.tool, way.name, *figures


def _verdict(costs: dict[Way, Cost]) -> int:
    """Say which of the promises hold for each of our 4-bit rows that rounds to nearest."""
    seconds = {way: statistics.median(cost.seconds) for way, cost in costs.items()}
    peak = {way: statistics.median(cost.peak_bytes) for way, cost in costs.items()}
    default = next(way for way in costs if way.options.get("algorithm") == "")
    slow = [way for way in costs if way.options.get("algorithm") in SLOW_PATHS]
    kept = True
    for way in costs:
        if way.tool != OURS or way.options["bits"] != 4 or way.options.get("refine"):
            continue
        ratios = [seconds[other] / seconds[way] for other in (default, *slow)]
        share = peak[way] / peak[default]
        kept &= ratios[0] >= 1 and all(ratio >= 5 for ratio in ratios[1:]) and share < 0.4
        names = (default.name, *(other.name for other in slow))
        faster = ", ".join(f"{ratio:.1f}x {name}" for ratio, name in zip(ratios, names, strict=True))
        print(f"{way.name}: {faster}; {share:.0%} of the default's memory")
    print(f"at least as fast as the default, 5x the others, under 40 % of the memory: {'yes' if kept else 'no'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
