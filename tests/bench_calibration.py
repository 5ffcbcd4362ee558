"""Seconds and memory of calibrating PP-OCR's detector at 640x640: ours by every method beside the tools of others.

    python -m tests.bench_calibration --nncf-python env/bin/python

Every row is a whole child process: start, imports, graph, calibration, the quantized model written. The rows of one
round run one after the other, rounds repeat, and the table has medians; a figure without its neighbours means nothing.
The peers get the graph after our passes, whose time is in our rows alone.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from PIL import Image

from converters.graphs import float_graph, normalised
from converters.quantize.choose_range import METHODS
from edgert.commands.printing import table
from edgert.host import host_facts, usable_cores
from edgert.profile import load_profile
from examples.models import fetch
from examples.ocr.lines import render_lines
from tests.bench_calibration_child import main as _child

SIDE, PAGES, LINES = 640, 64, 16
CHILD = Path(str(sys.modules[_child.__module__].__file__))


@dataclass(frozen=True)
class Way:
    """One row: the tool, its method, how many images, and the interpreter that runs it."""

    tool: str
    method: str
    images: int
    python: str


@dataclass(frozen=True)
class Cost:
    """What one child process took."""

    seconds: float
    peak_bytes: int
    load: float


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 where one of our rows is slower than a peer, or its memory grows with the images."""
    options = _options(arguments)
    facts = host_facts()
    print(f"{facts.cpu_name}, {usable_cores()} threads, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw_pages(work / "pages")
        original = fetch("ppocr-det")
        profile = load_profile("x86-avx512-vnni")
        ir.save(
            float_graph(normalised(original, profile, {"x": (1, 3, SIDE, SIDE)}), profile).model, work / "float.onnx"
        )
        rows = ways(options)
        costs: dict[Way, list[Cost]] = {way: [] for way in rows}
        for number in range(options.rounds):
            for way in rows:
                if number == 0 or way.images <= PAGES:
                    costs[way].append(run(way, original, work))
                    print(f"  {way.tool} {way.method} {way.images}: {costs[way][-1]}", flush=True)
    print(
        table(
            ("tool", "method", "images", "seconds", "peak MB", "load before"), [_row(*pair) for pair in costs.items()]
        )
    )
    return _verdict(costs)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_calibration")
    parser.add_argument("--nncf-python", help="an interpreter that has nncf and onnxruntime")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--many", type=int, default=512, help="images of the row that shows how memory grows; 0 for none"
    )
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    return parser.parse_args(arguments)


def ways(options: argparse.Namespace) -> list[Way]:
    """Return the rows in the order in which a round runs them; the large one comes once."""
    rows = [Way("edgert", method, PAGES, sys.executable) for method in options.methods]
    rows.append(Way("quantize_static", "MinMax", PAGES, sys.executable))
    if options.nncf_python:
        rows.append(Way("nncf", "", PAGES, options.nncf_python))
    if options.many:
        rows.append(Way("edgert", options.methods[0], options.many, sys.executable))
    return rows


def draw_pages(folder: Path) -> None:
    """Write pages of rendered lines as arrays of bytes [640, 640, 3], blue first."""
    folder.mkdir()
    lines = list(render_lines(PAGES * 4, seed=11))
    for page in range(PAGES):
        image = Image.new("RGB", (SIDE, SIDE), (235 - page, 232, 225 - 2 * page))
        for row in range(LINES):
            picture = lines[(4 * page + row * (1 + page % 3)) % len(lines)].picture
            small = picture.resize((max(1, picture.width * 28 // picture.height), 28))
            image.paste(small, (6 + 23 * (row % 5), 4 + 39 * row))
        np.save(folder / f"{page:03d}.npy", np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))


def run(way: Way, original: Path, work: Path) -> Cost:
    """Run one child process and return what it took."""
    with tempfile.TemporaryDirectory(dir=work) as target:
        model = original if way.tool == "edgert" else work / "float.onnx"
        wanted = {"tool": way.tool, "method": way.method, "images": way.images, "pages": str(work / "pages")}
        command = [way.python, str(CHILD), json.dumps({**wanted, "model": str(model), "target": target})]
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    return Cost(seconds, json.loads(done.stdout.splitlines()[-1])["peak_bytes"], load)


def _row(way: Way, costs: Sequence[Cost]) -> tuple[str, ...]:
    seconds, peak = (statistics.median(values) for values in _columns(costs))
    load = statistics.median(cost.load for cost in costs)
    return way.tool, way.method, str(way.images), f"{seconds:.1f}", f"{peak / 1e6:.0f}", f"{load:.1f}"


def _columns(costs: Sequence[Cost]) -> tuple[list[float], list[float]]:
    return [cost.seconds for cost in costs], [float(cost.peak_bytes) for cost in costs]


def _verdict(costs: dict[Way, list[Cost]]) -> int:
    median = {way: statistics.median(cost.seconds for cost in taken) for way, taken in costs.items()}
    peak = {way: max(cost.peak_bytes for cost in taken) for way, taken in costs.items()}
    ours = [way for way in costs if way.tool == "edgert" and way.images == PAGES]
    peers = [way for way in costs if way.tool != "edgert"]
    fastest = min(peers, key=median.__getitem__)
    slow = [way.method for way in ours if median[way] > median[fastest]]
    print(f"slower than {fastest.tool}: {', '.join(slow) or 'none'}")
    large = [way for way in costs if way.tool == "edgert" and peak[way] > 1e9]
    print(f"peak above 1 GB: {', '.join(f'{way.method} {way.images}' for way in large) or 'none'}")
    growth = [peak[way] / peak[ours[0]] - 1 for way in costs if way.tool == "edgert" and way.images > PAGES]
    print("".join(f"memory from {PAGES} images to more: {part:+.1%}\n" for part in growth), end="")
    return 1 if slow or large or any(part > 0.05 for part in growth) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
