"""`edgert bench`: time a bundle on this machine, raw onnxruntime on the same file beside it, in interleaved rounds."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np

from edgert.commands.numbers import COUNT, THREADS
from edgert.commands.printing import print_json, table
from edgert.errors import UsageError
from edgert.runtime.golden import load_golden
from edgert.runtime.inputs import read_inputs
from edgert.runtime.model import Model, load
from edgert.runtime.plain import plain_session
from edgert.runtime.session import RUN_ERRORS, run_error, tensor_spec
from edgert.runtime.timing import Latency, interleave


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--rounds", type=COUNT, default=20, show_default=True, help="Rounds: a turn of 0.05 s for each in every one."
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 1000),
    default=1,
    show_default=True,
    help="Untimed calls at the start of each turn.",
)
@click.option(
    "--input", "inputs", multiple=True, help="Inputs as for `edgert run`; default is the first golden vector."
)
@click.option(
    "--against", type=click.Path(path_type=Path), help="Another ONNX file to time beside it, as the original."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu or npu.")
@click.option("--strict", is_flag=True, help="Fail instead of falling back to another processor.")
@click.option("--threads", type=THREADS, default=0, help="Threads; default is the usable cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    bundle: Path,
    rounds: int,
    warmup: int,
    inputs: tuple[str, ...],
    against: Path | None,
    device: str,
    strict: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Time BUNDLE: p50, p90, p99 and throughput, with raw onnxruntime on the same variant beside it.

    The machine may be noisy: trust the ratios, which are medians over rounds with a turn for each.

    \b
    Example:
      edgert bench model-x86-avx512-vnni.edgert --rounds 200 --against model.onnx
    """
    if rounds < 1 or warmup < 0:
        raise UsageError(f"--rounds {rounds} --warmup {warmup} times nothing", "give at least one round")
    with load(bundle, device=device, threads=threads, strict=strict) as model:
        feeds = read_inputs(inputs, model.inputs) if inputs else load_golden(model.bundle)[0].inputs
        explanation = model.explain()
        calls: dict[str, Callable[[], object]] = {"edgert": lambda: model.run(feeds)}
        calls |= {name: _raw(path, feeds, explanation["threads"]) for name, path in _raw_files(model, against).items()}
        times = interleave(calls, rounds=rounds, warmup=warmup)
    rows = {name: _figures(latency) for name, latency in times.items()}
    document = {**explanation, "rounds": rounds, "timed": rows}
    if as_json:
        print_json(document)
        return
    click.echo(f"{explanation['variant']} on {explanation['provider']}, measured on: {explanation['where']}")
    header = ("", "p50 ms", "p90 ms", "p99 ms", "per second", "time / edgert's")
    body = [
        (
            name,
            *(f"{row[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{row['per_second']:.1f}",
            f"{row['ratio']:.3f}x",
        )
        for name, row in rows.items()
    ]
    click.echo(table(header, body))


def _raw_files(model: Model, against: Path | None) -> dict[str, Path]:
    """Return the files that plain onnxruntime runs beside the bundle, on the CPU only."""
    explanation, files = model.explain(), {}
    if explanation["processor"] == "cpu":
        files["onnxruntime, same file"] = model.bundle.file(model.bundle.manifest.variant(explanation["variant"]).file)
    if against is not None:
        files[f"onnxruntime, {against.name}"] = against
    return files


def _raw(path: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Callable[[], object]:
    """Return a call of plain onnxruntime with its default options, but for the number of threads."""
    session, given = plain_session(path, threads), dict(feeds)

    def call() -> object:
        try:
            return session.run(None, given)
        except RUN_ERRORS as exc:
            inputs = [tensor_spec(arg) for arg in session.get_inputs()]
            error = run_error(exc, given, inputs, f"plain onnxruntime with {path.name}")
            raise type(error)(f"{path}: {error.message}", error.remedy) from exc

    return call


def _figures(latency: Latency) -> dict[str, float]:
    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "per_second": 1000 / latency.p50_ms,
        "ratio": 1 / latency.speedup,
    }
