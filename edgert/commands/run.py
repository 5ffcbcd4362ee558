"""`edgert run`: run a bundle on inputs from files and show what came out and what ran it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgert.commands.numbers import THREADS
from edgert.commands.printing import print_json, table
from edgert.commands.runs import Run, plan_runs
from edgert.errors import UsageError
from edgert.runtime.answers import Answer, answer, parse_labels, transcripts
from edgert.runtime.inputs import Array, summarise, write_outputs
from edgert.runtime.model import Model, load
from edgert.runtime.prepare import open_preparer
from edgert.runtime.tokens import Tokenizer
from edgert.runtime.transcribe import generate

SHOWN_CHARACTERS = 40  # of a text in a table


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1)
@click.option("--input", "inputs", multiple=True, help=".npz, .npy, picture, sound, number; NAME=… for one input.")
@click.option("--text", "texts", multiple=True, help="A text for a model that takes text; repeatable.")
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
    files: tuple[str, ...],
    inputs: tuple[str, ...],
    texts: tuple[str, ...],
    output: Path | None,
    device: str,
    strict: bool,
    threads: int,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Run BUNDLE on FILES, arrays or texts, and say what the outputs mean where the bundle declares a task.

    FILES are like --input. Several pictures or sounds are run one after the other, several texts together. An emulated
    NPU or GPU is used only when --device names it.

    \b
    Example:
      edgert run effnet.edgert photo.jpg
      edgert run minilm.edgert --text "a sentence" --text "another"
      edgert run whisper.edgert clip.wav
      edgert run model.edgert --input x=x.npy --input sr=16000 --output out.npz
    """
    items = (*files, *inputs)
    if not items and not texts:
        raise UsageError("nothing is given to run the model on", "give a file, --input or --text")
    with load(bundle, device=device, threads=threads, strict=strict, trusted_keys=list(keys) or None) as model:
        done = _execute(model, items, texts)
        said = _answer(model, done)
        explanation = _explain(model)
    written = write_outputs(output, done.outputs) if output else {}
    summary = summarise(done.outputs)
    document = {
        **explanation,
        "latency_ms": done.seconds * 1000,
        "runs": done.runs,
        "answer": None if said is None else {**said.to_json(), "inputs": done.names},
        "outputs": {
            name: {**entry, "file": str(written[name]) if name in written else None} for name, entry in summary.items()
        },
    }
    if as_json:
        print_json(document)
        return
    _print(document, said, done.names)


@dataclass
class _Done:
    """What all runs made: outputs joined along their first axis, names of the rows, transcripts by name."""

    outputs: dict[str, Array] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    transcripts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    runs: int = 0


def _execute(model: Model, items: Sequence[str], texts: Sequence[str]) -> _Done:
    task = model.bundle.manifest.task
    preparer = open_preparer(task, model.inputs, model.bundle.file)
    runs = plan_runs(items, texts, task, model.inputs, preparer)
    if task is not None and task.kind == "speech-to-text":
        return _transcribe(model, runs)
    done, results = _Done(), []
    for entry in runs:
        start = time.perf_counter()
        results.append(model.run(entry.feeds))
        done.seconds += time.perf_counter() - start
        done.names += entry.names
        done.runs += 1
    done.outputs = _joined(results)
    return done


def _transcribe(model: Model, runs: Iterable[Run]) -> _Done:
    """Run encoder and decoder; `outputs` are those of the last run only, for they are large."""
    task = model.bundle.manifest.task
    assert task is not None and task.generate is not None and task.text is not None, "parse_manifest checks it"
    decoder = model.part(task.generate.decoder)
    tokenizer = Tokenizer.open(model.bundle.file(task.text.tokenizer), task.text)
    done = _Done()
    for entry in runs:
        start = time.perf_counter()
        done.outputs = model.run(entry.feeds)
        text = tokenizer.decode(generate(done.outputs, decoder, task.generate))
        done.seconds += time.perf_counter() - start
        done.runs += 1
        if entry.continues:
            done.transcripts[-1] = f"{done.transcripts[-1]} {text}".strip()
            continue
        done.names += entry.names
        done.transcripts.append(text)
    return done


def _joined(results: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if len(results) == 1:
        return results[0]
    try:
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    except ValueError as exc:
        message = f"the outputs of {len(results)} runs do not fit one array: {exc}"
        raise UsageError(message, "give one text or file at a time") from exc


def _answer(model: Model, done: _Done) -> Answer | None:
    task = model.bundle.manifest.task
    if task is None:
        return None
    if task.kind == "speech-to-text":
        return transcripts(task, done.transcripts)
    labels = parse_labels(model.bundle.file(task.labels).read_bytes(), task.labels) if task.labels else ()
    return answer(task, done.outputs, labels)


def _explain(model: Model) -> dict[str, Any]:
    task = model.bundle.manifest.task
    used = [task.generate.decoder] if task is not None and task.generate is not None else []
    return {**model.explain(), "parts": {name: model.part(name).explain() for name in used}}


def _print(document: dict[str, Any], said: Answer | None, names: Sequence[str]) -> None:
    click.echo(_placement(document))
    for name, part in document["parts"].items():
        click.echo(f"{name}: {_placement(part)}")
    emulated = " (emulated: not the device's time)" if document["where"] == "emulated" else ""
    runs = f" for {document['runs']} runs" if document["runs"] > 1 else ""
    click.echo(f"latency {document['latency_ms']:.2f} ms{runs}{emulated}")
    click.echo(_summary(document) if said is None else _answer_words(said, names))
    for name, entry in document["outputs"].items():
        if entry["file"]:
            click.echo(f"wrote {name} to {entry['file']}")


def _placement(explanation: dict[str, Any]) -> str:
    nodes = ", ".join(f"{count} on {name}" for name, count in explanation["nodes"].items())
    return f"{explanation['variant']} on {explanation['provider']} ({explanation['where']}), nodes: {nodes}"


def _summary(document: dict[str, Any]) -> str:
    rows = [
        (name, str(entry["shape"]), entry["dtype"], *(_number(entry[key]) for key in ("min", "max", "mean", "top1")))
        for name, entry in document["outputs"].items()
    ]
    return table(("output", "shape", "dtype", "min", "max", "mean", "top1"), rows)


def _answer_words(said: Answer, names: Sequence[str]) -> str:
    if said.cosine:
        return _cosine_words(said.cosine, names)
    lines: list[str] = []
    for index, item in enumerate(said.items):
        if len(said.items) > 1:
            lines.append(f"{_printable(names[index]) if index < len(names) else index + 1}:")
        if item.transcript is not None:
            lines.append(_printable(item.transcript))
        elif item.label is not None and (not item.classes or item.label != item.classes[0].label):
            lines.append(f"label {_printable(item.label)}")
        rows = [(f"{entry.probability:.4f}", _printable(entry.label)) for entry in item.classes]
        lines += [f"  {probability}  {label}" for probability, label in rows]
    return "\n".join(lines)


def _cosine_words(cosine: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    if len(cosine) == 2:
        return f"cosine similarity {cosine[0][1]:.4f}"
    shown = [_shown(names[index]) if index < len(names) else str(index + 1) for index in range(len(cosine))]
    rows = [
        (f"{cosine[first][second]:.4f}", shown[first], shown[second])
        for first in range(len(cosine))
        for second in range(first + 1, len(cosine))
    ]
    return table(("cosine similarity", "of", "and"), rows)


def _shown(name: str) -> str:
    text = _printable(name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _printable(text: str) -> str:
    """Return text without control characters: a bundle must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.6g}"
