"""The manifest of a bundle: what the bundle holds, for which device, and what each file must be.

`docs/bundle-format.md` is the normative text. Reading files, hashing them and checking signatures are left to
`edgert.bundle` and `edgert.signature`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from edgert import strict_json
from edgert.errors import BadInput
from edgert.image_spec import ImageSpec
from edgert.json_fields import (
    MAX_ITEMS,
    MAX_WHOLE,
    Fields,
    checked_name,
    checked_real,
    checked_text,
    checked_whole,
    checked_word,
    refused,
)
from edgert.task import Task

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MEASUREMENTS_NAME = "measurements.json"
SIGNATURE_NAME = "signature.dsse.json"
RECIPE_NAME = "recipe.toml"
OUTSIDE_DIGEST = (MEASUREMENTS_NAME, SIGNATURE_NAME)

MAX_MANIFEST_BYTES = 1_000_000
MAX_FILES = 256
MAX_FILE_BYTES = 1 << 40
MAX_RANK = 64
MAX_GOLDEN = 10_000
PROCESSORS = ("npu", "gpu", "cpu")
PART_SUFFIX = ".edgert"

_WORD = r"[A-Za-z0-9._+-]{1,100}"
_OPTION = r"[^/\\]*"  # an option must not name a path: a bundle could then have any library loaded


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; `dtype` is numpy's; a dimension is a number, the name of a free one, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    image: ImageSpec | None = None
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle with its size in bytes and its SHA-256 in lower-case hexadecimal."""

    name: str
    bytes: int
    sha256: str
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True)
class Variant:
    """One ONNX model of the bundle; `precision` is its number-format class, for example `qdq-u8s8`."""

    name: str
    precision: str
    file: str
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True)
class Placement:
    """One way to run the bundle; `emulator_options` take the place of `options` on an emulator."""

    variant: str
    provider: str
    processor: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    emulator_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True)
class Golden:
    """The golden vectors: `count` samples in `file`, and the least cosine that each variant must reach."""

    file: str
    count: int
    min_cosine: Mapping[str, float] = field(hash=False)
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself; `placements` are in order of preference, `chosen` is a variant.

    `task` says what the model is for. `parts` are further graphs by name, each a bundle that is one of the files.
    `unknown` holds the keys that this version does not know, here and below; they are kept on writing.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    version: str
    license: str
    profile: str
    arch: str
    isa: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[FileEntry, ...] = ()
    variants: tuple[Variant, ...]
    chosen: str
    placements: tuple[Placement, ...]
    golden: Golden
    reference: str
    recipe: Mapping[str, object] = field(default_factory=dict, hash=False)
    warnings: tuple[str, ...] = ()
    task: Task | None = None
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    unknown: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`; KeyError when there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical bytes of `manifest.json`; the digest of a bundle is their SHA-256.

    ValueError on a number that is not finite in `recipe` or `unknown`.
    """
    document = {
        **_members(manifest),
        "inputs": [_tensor_members(spec) for spec in manifest.inputs],
        "outputs": [_tensor_members(spec) for spec in manifest.outputs],
        "files": [_members(entry) for entry in manifest.files],
        "variants": [_members(variant) for variant in manifest.variants],
        "placements": [_members(placement) for placement in manifest.placements],
        "golden": _members(manifest.golden),
        "task": None if manifest.task is None else manifest.task.to_json(),
    }
    for key in ("task", "parts"):  # left out where there is none, so that older manifests keep their bytes
        if not document[key]:
            del document[key]
    return strict_json.dumps(document).encode("utf-8")


def _members(item: Manifest | TensorSpec | FileEntry | Variant | Placement | Golden) -> dict[str, object]:
    """Return the JSON members of one dataclass, the unknown ones among them."""
    known = {f.name: getattr(item, f.name) for f in fields(item) if f.name != "unknown"}
    return {**item.unknown, **{k: dict(v) if isinstance(v, Mapping) else v for k, v in known.items()}}


def _tensor_members(spec: TensorSpec) -> dict[str, object]:
    members = _members(spec)
    del members["image"]
    return members if spec.image is None else {**members, "image": spec.image.to_json()}


def parse_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`; BadInput names the key that is missing, mistyped or contradictory."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise refused(f"{MANIFEST_NAME} is {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
    document = strict_json.loads(data, MANIFEST_NAME)
    check_plain(document, MANIFEST_NAME)
    top = Fields(document, MANIFEST_NAME)
    _check_version(top)
    manifest = Manifest(
        name=top.name("name"),
        version=top.word("version", _WORD),
        license=top.text("license"),
        profile=top.name("profile"),
        arch=top.word("arch", _WORD),
        isa=top.texts("isa"),
        inputs=tuple(_tensor(entry) for entry in _objects(top, "inputs")),
        outputs=tuple(_tensor(entry) for entry in _objects(top, "outputs")),
        files=tuple(_file(entry) for entry in _objects(top, "files", MAX_FILES)),
        variants=tuple(_variant(entry) for entry in _objects(top, "variants", MAX_FILES)),
        chosen=top.name("chosen"),
        placements=tuple(_placement(entry) for entry in _objects(top, "placements", MAX_FILES)),
        golden=_golden(Fields(top.value("golden"), top.path("golden"))),
        reference=top.name("reference"),
        recipe=top.table("recipe"),
        warnings=top.texts("warnings"),
        task=Task.from_json(top.value("task"), top.path("task")) if top.has("task") else None,
        parts=_parts(top) if top.has("parts") else {},
        unknown=top.rest(),
    )
    _check_references(manifest)
    return manifest


def check_plain(document: object, what: str) -> None:
    """Raise BadInput if a document could not be written again: 1e999 is infinite, "\\ud800" is no text."""
    try:
        strict_json.dumps(document).encode("utf-8")
    except ValueError as exc:
        raise refused(f"{what} holds a value that is not finite or not text: {exc}") from exc


def _check_version(top: Fields) -> None:
    version = checked_whole(top.value("schema_version"), top.path("schema_version"), 0, MAX_WHOLE)
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{MANIFEST_NAME} has schema_version {version}; this edgert understands {SCHEMA_VERSION}",
            "upgrade edgert" if version > SCHEMA_VERSION else "make the bundle again with `edgert convert`",
        )


def _objects(top: Fields, key: str, limit: int = MAX_ITEMS) -> list[Fields]:
    """Return the objects of the list `key`; at least one is there."""
    entries = [Fields(item, f"{top.path(key)}[{i}]") for i, item in enumerate(top.items(key, limit))]
    if not entries:
        raise refused(f"{top.path(key)} is empty")
    return entries


def _tensor(entry: Fields) -> TensorSpec:
    shape = tuple(_dimension(item, entry.path("shape")) for item in entry.items("shape", MAX_RANK))
    image = ImageSpec.from_json(entry.value("image"), entry.path("image")) if entry.has("image") else None
    return TensorSpec(entry.text("name"), entry.word("dtype", _WORD), shape, image, entry.rest())


def _dimension(item: object, path: str) -> int | str | None:
    if item is None:
        return None
    return checked_text(item, path) if isinstance(item, str) else checked_whole(item, path, 0, MAX_WHOLE)


def _file(entry: Fields) -> FileEntry:
    size = entry.whole("bytes", 0, MAX_FILE_BYTES)
    return FileEntry(entry.name("name"), size, entry.word("sha256", "[0-9a-f]{64}"), entry.rest())


def _variant(entry: Fields) -> Variant:
    return Variant(entry.name("name"), entry.name("precision"), entry.name("file"), entry.rest())


def _placement(entry: Fields) -> Placement:
    return Placement(
        entry.name("variant"),
        entry.word("provider", _WORD),
        entry.word("processor", "|".join(PROCESSORS)),
        _options(entry, "options"),
        _options(entry, "emulator_options"),
        entry.rest(),
    )


def _options(entry: Fields, key: str) -> dict[str, str]:
    """Return provider options; a value that names a path is refused, for it could have any library loaded."""
    path = entry.path(key)
    options = entry.table(key).items()
    return {checked_word(name, path, _WORD): checked_word(value, path, _OPTION) for name, value in options}


def _golden(entry: Fields) -> Golden:
    path = entry.path("min_cosine")
    least = entry.table("min_cosine")
    min_cosine = {checked_name(name, path): checked_real(value, path, -1.0, 1.0) for name, value in least.items()}
    return Golden(entry.name("file"), entry.whole("count", 1, MAX_GOLDEN), min_cosine, entry.rest())


def _parts(top: Fields) -> dict[str, str]:
    path = top.path("parts")
    parts = {checked_name(name, path): checked_name(file, path) for name, file in top.table("parts").items()}
    for file in parts.values():
        if not file.endswith(PART_SUFFIX):
            raise refused(f"{path} holds '{file}', which is not a {PART_SUFFIX} file")
    return parts


def _check_references(manifest: Manifest) -> None:
    """Raise BadInput if a name is there twice, or is used but not there."""
    files = _unique("files", [entry.name for entry in manifest.files])
    variants = _unique("variants", [variant.name for variant in manifest.variants])
    _unique("inputs", [spec.name for spec in manifest.inputs])
    _unique("outputs", [spec.name for spec in manifest.outputs])
    for name in sorted(files & {MANIFEST_NAME, *OUTSIDE_DIGEST}):
        raise refused(f"{MANIFEST_NAME} 'files' lists {name}, which it cannot vouch for")
    for key, name in _file_references(manifest):
        if name not in files:
            raise refused(f"{MANIFEST_NAME} {key} names the file '{name}', which 'files' does not list")
    for key, name in _variant_references(manifest):
        if name not in variants:
            raise refused(f"{MANIFEST_NAME} {key} names the variant '{name}', which 'variants' does not list")
    for key, name, known in _task_references(manifest):
        if name not in known:
            raise refused(f"{MANIFEST_NAME} 'task' {key} names '{name}'; known: {', '.join(known) or 'none'}")
    if all(placement.processor != "cpu" for placement in manifest.placements):
        raise refused(f"{MANIFEST_NAME} 'placements' holds none for the CPU")


def _unique(key: str, names: list[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise refused(f"{MANIFEST_NAME} '{key}' holds '{name}' twice")
        seen.add(name)
    return seen


def _file_references(manifest: Manifest) -> list[tuple[str, str]]:
    variants = [("'variants'", variant.file) for variant in manifest.variants]
    parts = [("'parts'", file) for file in manifest.parts.values()]
    task = manifest.task
    named = [] if task is None else [("'task' 'labels'", task.labels)]
    if task is not None and task.text is not None:
        named.append(("'task' 'text'", task.text.tokenizer))
    own = [("'golden'", manifest.golden.file), ("'reference'", manifest.reference)]
    return [*variants, *own, *parts, *((key, name) for key, name in named if name)]


def _variant_references(manifest: Manifest) -> list[tuple[str, str]]:
    placements = [("'placements'", placement.variant) for placement in manifest.placements]
    return [
        *placements,
        ("'chosen'", manifest.chosen),
        *(("'golden'", name) for name in manifest.golden.min_cosine),
    ]


def _task_references(manifest: Manifest) -> list[tuple[str, str, list[str]]]:
    """Return what the task names but files: the key, the name, and the names that there are."""
    task = manifest.task
    if task is None:
        return []
    inputs, outputs = ([spec.name for spec in specs] for specs in (manifest.inputs, manifest.outputs))
    found = [("'output'", task.output, outputs)]
    if task.text is not None:
        names = (task.text.ids, task.text.mask, task.text.types)
        found += [("'text'", name, inputs) for name in names if name]
    if task.audio is not None:
        found.append(("'audio'", task.audio.input, inputs))
    if task.generate is not None:
        found.append(("'generate' 'decoder'", task.generate.decoder, list(manifest.parts)))
        found += [("'generate' 'cross'", name, outputs) for name in task.generate.cross]
    return found
