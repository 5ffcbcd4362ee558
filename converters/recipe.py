"""`recipe.toml` of a bundle: what was converted, with what, and the one candidate that came out, without any figure.

Writing and reading the file is all that happens here; `converters.replay` makes a request of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomli_w

from converters.quantize.choose_range import METHODS
from converters.request import PRECISIONS
from edgert.bundle import open_bundle
from edgert.errors import BadInput
from edgert.image_spec import ImageSpec
from edgert.manifest import RECIPE_NAME
from edgert.profile import PROCESSORS
from edgert.strict_toml import Table, loads

SCHEMA_VERSION = 1
MAX_CHARACTERS = 10_000_000
"""A recipe may name every node of a large graph."""

_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST = 1 << 40


_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
"""What candidates are called: it names their files, too."""


@dataclass(frozen=True)
class Built:
    """What builds one candidate again: its label, and of the settings those that it has.

    `keep_float` and `wide` are keys of nodes, see `quantize.plan.node_key`. `warning` is said of a part that is
    not where it should be.
    """

    label: str
    precision: str
    processor: str
    calibration_method: str = ""
    equalise: bool = False
    round_weights: bool = False
    correct_bias: bool = False
    keep_float: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    bits: int = 0
    block_size: int = 0
    symmetric: bool = False
    dynamic: bool = False
    warning: str = ""

    @classmethod
    def of(cls, choice: Mapping[str, object], precision: str, processor: str, warning: str = "") -> "Built":
        """Return it from the recipe of a `Choice`; what only tells what came out is left."""
        given = {key: value for key, value in choice.items() if key not in TOLD and value is not None}
        unknown = given.keys() - {*cls.__dataclass_fields__, "candidate"}
        assert not unknown, f"{RECIPE_NAME} cannot hold {unknown}: teach converters.recipe.Built"
        label = str(given.pop("candidate"))
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return cls(label, precision, processor, warning=warning, **settings)  # type: ignore[arg-type]

    def document(self) -> dict[str, object]:
        """Return the table, without the settings that it does not have."""
        every = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in every.items() if value}


TOLD = ("passes", "kept_in_fp32")
"""Keys of a choice's recipe that say what the graph passes and the fp16 conversion did; they do it again unasked."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One conversion that was done; the fields named like those of `Request` are as they were asked for.

    `model_file`, `calibration` and `labels` are names without their folders; a callable's is whole. `count` samples
    were calibrated with, whose digest is `data_sha256`. `built` is the candidate, `parts` those of the parts.
    `digest` is that of the bundle it was read from, "" for a file.
    """

    name: str
    version: str
    license: str | None
    model_file: str
    model_kind: str
    model_sha256: str
    part: str
    source: str | None
    task: str | None
    factory: str | None
    submodule: str | None
    dynamic: Mapping[str, tuple[str, ...]]
    parity_db: float | None
    classes_sha256: str
    profile: str
    profile_sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    images: Mapping[str, ImageSpec]
    calibration: str
    kind: str
    count: int
    data_sha256: str
    samples: int
    emulator_samples: int
    precision: str
    metric: str
    max_drop: float
    labels: str
    evaluate: str | None
    judge_sha256: str
    built: Built
    parts: Mapping[str, Built]
    tools: Mapping[str, str]
    digest: str = field(default="", compare=False)

    def built_for(self, part: str) -> Built:
        """Return the candidate of a part, "" for the main graph; BadInput where the recipe has no such part."""
        if part and part not in self.parts:
            raise BadInput(f"the recipe has no part '{part}', and the model does", "convert it without --recipe")
        return self.parts[part] if part else self.built


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe as TOML; equal recipes are equal bytes."""
    path.write_text(tomli_w.dumps(_document(recipe)), encoding="utf-8", newline="\n")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file or out of a bundle, which is verified.

    BadInput names the key that is unknown, missing or no such value, or says that a bundle has no recipe.
    """
    if path.suffix == ".toml":
        return parse_recipe(_text(path), str(path))
    bundle = open_bundle(path)
    if all(entry.name != RECIPE_NAME for entry in bundle.manifest.files):
        raise BadInput(
            f"'{path}' holds no {RECIPE_NAME}: an older edgert made it", "convert the model without --recipe"
        )
    found = parse_recipe(_text(bundle.file(RECIPE_NAME)), f"{path}: {RECIPE_NAME}")
    return replace(found, digest=bundle.digest)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(
            f"cannot read the recipe {path}: {exc}", "give a bundle, or the path of its recipe.toml"
        ) from exc


def _document(recipe: Recipe) -> dict[str, object]:
    """Return the TOML document; what is None or empty is left out."""
    model = {
        "file": recipe.model_file,
        "kind": recipe.model_kind,
        "sha256": recipe.model_sha256,
        "part": recipe.part,
        **{key: getattr(recipe, key) for key in ("source", "task", "factory", "submodule", "parity_db")},
        "classes_sha256": recipe.classes_sha256,
        "dynamic": {name: ",".join(dims) for name, dims in recipe.dynamic.items()},
    }
    calibration = {"data": recipe.calibration, "kind": recipe.kind, "count": recipe.count}
    calibration |= {"sha256": recipe.data_sha256}
    calibration |= {key: getattr(recipe, key) for key in ("samples", "emulator_samples")}
    gate = {key: getattr(recipe, key) for key in ("precision", "metric", "max_drop", "labels", "evaluate")}
    document = {
        "schema_version": SCHEMA_VERSION,
        "bundle": _there({"name": recipe.name, "version": recipe.version, "license": recipe.license}),
        "model": _there(model),
        "profile": {"id": recipe.profile, "sha256": recipe.profile_sha256},
        "shapes": {name: list(shape) for name, shape in sorted(recipe.shapes.items())},
        "images": {name: spec.to_json() for name, spec in sorted(recipe.images.items())},
        "calibration": _there(calibration),
        "gate": _there(gate | {"sha256": recipe.judge_sha256}),
        "candidate": recipe.built.document(),
        "parts": {name: built.document() for name, built in sorted(recipe.parts.items())},
        "tools": dict(sorted(recipe.tools.items())),
    }
    return _there(document)


def _there(table: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in table.items() if value not in (None, "", {})}


_REQUIRED: Mapping[str, Sequence[str]] = {
    "bundle": ("name", "version"),
    "model": ("file", "kind", "sha256"),
    "profile": ("id", "sha256"),
    "calibration": ("kind", "count", "sha256", "samples", "emulator_samples"),
    "gate": ("precision", "metric", "max_drop"),
}
_OPTIONAL: Mapping[str, Sequence[str]] = {
    "bundle": ("license",),
    "model": ("part", "source", "task", "factory", "submodule", "parity_db", "classes_sha256", "dynamic"),
    "calibration": ("data",),
    "gate": ("labels", "evaluate", "sha256"),
}
"""The tables of fixed keys: those that must be there, and those that may."""


def parse_recipe(text: str, where: str) -> Recipe:
    """Read the TOML text of a recipe; `where` names the file in the BadInput that a defect raises."""
    top = loads(text, where, MAX_CHARACTERS)
    if top.has("schema_version") and top.values["schema_version"] != SCHEMA_VERSION:
        raise top.error(
            "schema_version",
            f"is {top.values['schema_version']!r}; this edgert understands {SCHEMA_VERSION}",
            "replay it with the edgert that wrote it, see its [tools]",
        )
    free = ("shapes", "images", "candidate", "parts", "tools")
    top.allow(("schema_version", *_REQUIRED, *free), required=("schema_version", *_REQUIRED, "candidate"))
    tables = {name: top.table(name) for name in _REQUIRED}
    for name, required in _REQUIRED.items():
        tables[name].allow((*required, *_OPTIONAL.get(name, ())), required=required)
    return _recipe(top, **tables)


def _recipe(top: Table, bundle: Table, model: Table, profile: Table, calibration: Table, gate: Table) -> Recipe:
    shapes, images, parts, dynamic = (
        top.table("shapes"),
        top.table("images"),
        top.table("parts"),
        model.table("dynamic"),
    )
    return Recipe(
        name=bundle.text("name"),
        version=bundle.text("version"),
        license=_optional(bundle, "license"),
        model_file=model.text("file"),
        model_kind=model.text("kind"),
        model_sha256=model.matching("sha256", _SHA256),
        part=_optional(model, "part") or "",
        source=_optional(model, "source"),
        task=_optional(model, "task"),
        factory=_optional(model, "factory"),
        submodule=_optional(model, "submodule"),
        dynamic={name: tuple(text.split(",")) for name, text in dynamic.all_texts().items()},
        parity_db=model.real("parity_db", -1000, 1000) if model.has("parity_db") else None,
        classes_sha256=_optional(model, "classes_sha256") or "",
        profile=profile.text("id"),
        profile_sha256=profile.matching("sha256", _SHA256),
        shapes={name: shapes.integers(name, 1, _LARGEST) for name in shapes.names()},
        images={
            name: ImageSpec.from_json(images.table(name).values, f"{top.where}: images") for name in images.names()
        },
        calibration=_optional(calibration, "data") or "",
        kind=calibration.text("kind"),
        count=calibration.integer("count", 1, _LARGEST),
        data_sha256=calibration.matching("sha256", _SHA256),
        samples=calibration.integer("samples", 1, _LARGEST),
        emulator_samples=calibration.integer("emulator_samples", 1, _LARGEST),
        precision=gate.word("precision", PRECISIONS),
        metric=gate.text("metric"),
        max_drop=gate.real("max_drop", 0, 1),
        labels=_optional(gate, "labels") or "",
        evaluate=_optional(gate, "evaluate"),
        judge_sha256=_optional(gate, "sha256") or "",
        built=_built(top.table("candidate")),
        parts={name: _built(parts.table(name)) for name in parts.names()},
        tools=top.table("tools").all_texts(),
    )


def _optional(table: Table, key: str) -> str | None:
    return table.text(key) if table.has(key) else None


FLAGS = ("equalise", "round_weights", "correct_bias", "symmetric", "dynamic")
"""The settings of a candidate that are true or left away."""


def _built(table: Table) -> Built:
    table.allow(tuple(Built.__dataclass_fields__), required=("label", "precision", "processor"))
    return Built(
        label=table.matching("label", _LABEL),
        precision=table.word("precision", PRECISIONS[1:]),
        processor=table.word("processor", PROCESSORS),
        calibration_method=table.word("calibration_method", METHODS) if table.has("calibration_method") else "",
        keep_float=table.texts("keep_float"),
        wide=table.texts("wide"),
        bits=table.integer("bits", 4, 8) if table.has("bits") else 0,
        block_size=table.integer("block_size", 16, 256) if table.has("block_size") else 0,
        **{name: table.flag(name) for name in FLAGS if table.has(name)},
        warning=_optional(table, "warning") or "",
    )
