"""What a source is asked for and what it gives back: plain data, no work.

A source is one file of this folder with `matches(path) -> bool`, which looks at the content of the path, and
`load(path, options) -> Imported`. Why it returns more than a graph: docs/adr/0040.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from converters.request import Progress, no_progress
from edgert.image_spec import ImageSpec
from edgert.task import Task

Rerun = Callable[[Path, Path, str], None]
"""Called as rerun(samples, out, part): run the source itself on each `NNNN.npz` of the folder `samples` (inputs by ONNX
name) and write its outputs, by ONNX name, to a file of the same name in `out`. `part` is "" for the main graph."""


@dataclass(frozen=True)
class Options:
    """How to import one model.

    `workdir`: an empty folder for what the exporter writes; it must live as long as the Imported. `dynamic`: input name
    -> names of its dimensions, "" for a fixed one. `shapes`: input name -> static shape. `factory`: `module:function`
    that makes the module a state_dict is for. `submodule`: the part of a TorchScript module that is meant, by its
    dotted name. `trust_pickle`: a file may run code when it is loaded.
    """

    workdir: Path
    task: str | None = None
    dynamic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    factory: str | None = None
    submodule: str | None = None
    trust_pickle: bool = False
    progress: Progress = no_progress


@dataclass(frozen=True)
class Imported:
    """A model as ONNX, with what belongs to it.

    `path` is the ONNX file, `parts` further graphs by name (the decoder of an encoder-decoder model), `sha256` that of
    the source. `framework` and `tools` name what made it ("" and {} for a model that came as ONNX). `images`: rules for
    picture inputs; `task`: what the model is for; `files`: what the task names, by their names in the bundle.
    `examples`: an `.npz` of samples that came with the source. `quantized`: the source was quantized already and its
    graph keeps these scales. `rerun` runs the source itself, None where it is ONNX.
    """

    kind: str
    path: Path
    sha256: str
    framework: str = ""
    parts: Mapping[str, Path] = field(default_factory=dict)
    images: Mapping[str, ImageSpec] = field(default_factory=dict)
    task: Task | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    examples: Path | None = None
    quantized: bool = False
    tools: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    rerun: Rerun | None = None
