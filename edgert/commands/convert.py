"""`edgert convert`: parse the flags, call the converter, print what came out."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgert.commands.conversion_text import conversion_lines
from edgert.commands.numbers import BYTES, COUNT, THREADS
from edgert.commands.plan_text import plan_lines
from edgert.commands.printing import ProgressLine, print_json
from edgert.errors import MissingExtra, UsageError
from edgert.image_spec import ImageSpec, parse_image_spec

NEEDED = ("onnx", "onnx_ir", "onnxscript")
WORK = {False: ("converters.pipeline", "convert_request"), True: ("converters.dry_run", "plan_conversion")}
"""Whether it is a dry run -> module and function that do it: `converters` is no import of the command line."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-p", "--profile", "profiles", multiple=True, help="A device profile; repeatable.")
@click.option(
    "-o", "--output", default=".", type=click.Path(path_type=Path), show_default=True, help="Folder for the bundles."
)
@click.option(
    "--calibration", help="A folder of images, sounds, .txt or arrays, one such file, module:function, or random."
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True),
    metavar="TOML|BUNDLE",
    help="Build what a bundle's recipe.toml says, without a search.",
)
@click.option("--source", metavar="KIND", help="What MODEL is, where its content does not tell; see above.")
@click.option("--task", help="What a Hugging Face model is for, where its config does not tell.")
@click.option("--factory", metavar="MODULE:FUNCTION", help="Makes the torch module that a state_dict is for.")
@click.option("--submodule", metavar="NAME", help="The part of a TorchScript module that is meant.")
@click.option(
    "--dynamic",
    "dynamics",
    multiple=True,
    metavar="NAME=DIMS",
    help="Keep PyTorch dims free, as x=batch,,; repeatable.",
)
@click.option("--trust-pickle", is_flag=True, help="Load a pickle or joblib file, which may run any code in it.")
@click.option("--parity", "parity_db", type=float, help="Least SQNR in dB against the model's own framework [40].")
@click.option(
    "--classes", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Class names: JSON list or lines."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=DIMS", help="Fix an input's shape, as x=1,3,48,320; repeatable."
)
@click.option("--image", "images", multiple=True, metavar="[NAME:]RULES", help="Image rules, see above; repeatable.")
@click.option(
    "--precision", default="auto", show_default=True, help="auto, fp32, fp16, int8, mixed, w8a16, w8 or int4."
)
@click.option("--max-drop", default=0.01, show_default=True, help="Largest fall of the metric from the original.")
@click.option(
    "--metric",
    help="What --max-drop judges: cosine, top1_agreement, sqnr, spearman, map; with --labels also top1, top5, cer, wer."
    "  [default: cosine; with --labels what suits the model]",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Right answers: lines of file,label or JSON; these files score, the others calibrate.",
)
@click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Scores a model: gets run(dict) -> dict, returns a number, the more the better.",
)
@click.option("--samples", type=COUNT, default=64, show_default=True, help="Use at most so many calibration samples.")
@click.option(
    "--emulator-samples", type=COUNT, default=2, show_default=True, help="Samples run on an emulated accelerator."
)
@click.option("--time-budget", "time_budget_s", type=float, metavar="SECONDS", help="Begin no candidate after it.")
@click.option(
    "--memory-budget",
    type=BYTES,
    default="1GB",
    show_default=True,
    metavar="SIZE",
    help="What calibration may hold at once beside the weights, as 500MB or 2GB.",
)
@click.option("--license", "license_id", metavar="SPDX-ID", help="The model's licence, kept in the bundle.")
@click.option("--name", help="The bundle's name; default is the model file's.")
@click.option("--folder", is_flag=True, help="Write folders instead of single .edgert files.")
@click.option("--threads", type=THREADS, default=0, help="Threads for measuring; default is the usable cores.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be tried, written and how long it may take; do none of it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def convert(
    model: Path,
    profiles: tuple[str, ...],
    output: Path,
    calibration: str | None,
    recipe: Path | None,
    source: str | None,
    task: str | None,
    factory: str | None,
    submodule: str | None,
    dynamics: tuple[str, ...],
    trust_pickle: bool,
    parity_db: float | None,
    classes: Path | None,
    shapes: tuple[str, ...],
    images: tuple[str, ...],
    precision: str,
    max_drop: float,
    metric: str | None,
    labels: Path | None,
    evaluate: str | None,
    samples: int,
    emulator_samples: int,
    memory_budget: float,
    time_budget_s: float | None,
    license_id: str | None,
    name: str | None,
    folder: bool,
    threads: int,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Turn MODEL into verified bundles, one per profile, and a report; nothing unverified is written.

    MODEL is told from its content: onnx, tflite, huggingface (a folder), paddle, tensorflow (SavedModel, .keras, .h5,
    .pb), sklearn (.joblib, XGBoost, LightGBM), pytorch (.pt2, TorchScript, a state_dict with --factory); or
    module:function with --source. `edgert sources list` shows which of their frameworks are installed.

    Image rules say how pictures become input: color=rgb|bgr|gray, mean=…, std=… (of pixel values 0..255; three
    numbers joined by /), resize=stretch|pad|crop, filter=bilinear|bicubic|…, shortest_edge=…; they go into the bundle,
    so that `edgert run` does the same.

    \b
    Example:
      edgert convert model.onnx -p snapdragon-8-gen-3 -p raspberry-pi-5 --calibration images/ -o bundles/
      edgert convert minilm-folder/ -p raspberry-pi-5 --dry-run
      edgert convert rec.onnx -p x86-avx2 --calibration lines/ --shape x=1,3,48,320 \\
          --image color=bgr,mean=127.5,std=127.5,resize=pad
      edgert convert rec.onnx --recipe bundles/rec-x86-avx2.edgert --calibration lines/ -o again/
    """
    _require_extra()
    progress = ProgressLine()
    request = importlib.import_module("converters.request").Request(
        model,
        profiles,
        output,
        calibration=calibration,
        shapes=dict(parse_shape(text) for text in shapes),
        images=parse_images(images),
        precision=precision,
        max_drop=max_drop,
        metric=metric or "",
        labels=labels,
        evaluate=evaluate,
        license=license_id,
        name=name,
        folder=folder,
        threads=threads,
        samples=samples,
        emulator_samples=emulator_samples,
        memory_budget=memory_budget,
        source=source,
        task=task,
        dynamic=dict(parse_dynamic(text) for text in dynamics),
        factory=factory,
        submodule=submodule,
        trust_pickle=trust_pickle,
        parity_db=parity_db,
        classes=classes,
        time_budget_s=time_budget_s,
        progress=progress,
    )
    module, function = WORK[dry_run]
    work: Callable[[object, Path | None], Any] = getattr(importlib.import_module(module), function)
    try:
        # What a calibration callable prints must not end up in the JSON document.
        with contextlib.redirect_stdout(sys.stderr):
            answer = work(request, recipe)
    finally:
        progress.clear()
    document = answer.to_json()
    if as_json:
        print_json(document)
    else:
        for line in plan_lines(document) if dry_run else conversion_lines(document):
            click.echo(line)
    exit_code: int = answer.exit_code
    return exit_code


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `NAME=1,3,48,320`; UsageError that shows the form on anything else."""
    name, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(part) for part in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise UsageError(f"--shape '{text}' is not NAME=DIMS with positive whole numbers", "as in --shape x=1,3,48,320")
    return name, shape


def parse_dynamic(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse `NAME=batch,,width`: a name for each free dimension, nothing for a fixed one."""
    name, _, dims = text.partition("=")
    names = tuple(part.strip() for part in dims.split(","))
    if not name or not any(names) or not all(part.isidentifier() for part in names if part):
        raise UsageError(
            f"--dynamic '{text}' is not NAME=DIMS with a word for each free one", "as in --dynamic x=batch,,"
        )
    return name, names


def parse_images(texts: Sequence[str]) -> dict[str, ImageSpec]:
    """Parse `[NAME:]RULES`; rules without a name, under "", belong to the model's only input."""
    found: dict[str, ImageSpec] = {}
    for text in texts:
        head, _, rules = text.rpartition(":")
        found[head] = parse_image_spec(rules)
    return found


def _require_extra() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the converter needs {', '.join(missing)}, not installed here", "pip install 'edgert[convert]'"
        )
