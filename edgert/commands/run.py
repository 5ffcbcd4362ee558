"""`edgert run`: run a bundle on inputs from files and show what came out and what ran it."""

import time
from pathlib import Path
from typing import Any

import click

from edgert.commands.numbers import THREADS
from edgert.commands.printing import print_json, table
from edgert.runtime.inputs import read_inputs, summarise, write_outputs
from edgert.runtime.model import load


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--input", "inputs", multiple=True, required=True, help=".npz, .npy, image or number; NAME=… for one input."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the outputs go: .npz, .json, or a folder of .npy."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu or npu.")
@click.option("--strict", is_flag=True, help="Fail instead of falling back to another processor.")
@click.option("--threads", type=THREADS, default=0, help="Threads; default is the usable cores.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A public key: only run what it signed; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run(
    bundle: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    device: str,
    strict: bool,
    threads: int,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Run BUNDLE once on the given inputs.

    An emulated NPU or GPU is used only when --device names it.

    \b
    Example:
      edgert run model-raspberry-pi-5.edgert --input photo.jpg
      edgert run model.edgert --input x=x.npy --input sr=16000 --output out.npz
    """
    trusted = list(keys) or None
    with load(bundle, device=device, threads=threads, strict=strict, trusted_keys=trusted) as model:
        feeds = read_inputs(inputs, model.inputs)
        start = time.perf_counter()
        outputs = model.run(feeds)
        latency_ms = (time.perf_counter() - start) * 1000
        explanation = model.explain()
    files = write_outputs(output, outputs) if output else {}
    summary = summarise(outputs)
    document = {
        **explanation,
        "latency_ms": latency_ms,
        "outputs": {
            name: {**entry, "file": str(files[name]) if name in files else None} for name, entry in summary.items()
        },
    }
    if as_json:
        print_json(document)
        return
    _print(document)


def _print(document: dict[str, Any]) -> None:
    nodes = ", ".join(f"{count} on {name}" for name, count in document["nodes"].items())
    click.echo(f"{document['variant']} on {document['provider']} ({document['where']}), nodes: {nodes}")
    emulated = " (emulated: not the device's time)" if document["where"] == "emulated" else ""
    click.echo(f"latency {document['latency_ms']:.2f} ms{emulated}")
    rows = [
        (name, str(entry["shape"]), entry["dtype"], *(_number(entry[key]) for key in ("min", "max", "mean", "top1")))
        for name, entry in document["outputs"].items()
    ]
    click.echo(table(("output", "shape", "dtype", "min", "max", "mean", "top1"), rows))
    for name, entry in document["outputs"].items():
        if entry["file"]:
            click.echo(f"wrote {name} to {entry['file']}")


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.6g}"
