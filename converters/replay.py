"""From a conversion to its recipe, and from a recipe to a request that builds the same candidate again.

What a recipe may ask for is settled here: it never names code to run or a path to read. Files, callables and pickles
are given again by whoever replays it, and compared with the digests in the recipe.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from converters.job import Job, Shared
from converters.recipe import Built, Recipe
from converters.request import Request
from converters.sources.imported import Imported
from edgert import strict_json
from edgert.errors import BadInput, UsageError
from edgert.profile import DeviceProfile

TAKEN = (
    *("name", "version", "license", "source", "task", "submodule", "dynamic", "parity_db", "shapes", "images"),
    *("samples", "emulator_samples", "precision", "metric", "max_drop"),
)
"""Fields of a request that come from the recipe; one that was given as well must say the same."""

GIVEN = ("calibration", "labels", "evaluate", "classes", "factory")
"""Fields of a request that name files or code: they are given again exactly where the recipe has them."""

INERT = ("name", "figures", "notes", "sources")
"""What a device profile tells people, and no conversion reads."""


def recipe_of(job: Job, built: Built, parts: Mapping[str, Built], tools: Mapping[str, str]) -> Recipe:
    """Return the recipe of what was converted; of a replay it keeps the names that the files had at first."""
    request, samples, imported = job.request, job.shared.samples, job.shared.imported
    first, judged = request.replay, job.shared.evaluation
    return Recipe(
        **{name: getattr(request, name) for name in TAKEN if name not in ("name", "metric")},
        name=request.bundle_name,
        metric=request.metric,
        factory=request.factory,
        evaluate=request.evaluate,
        model_file=first.model_file if first else request.model.name,
        model_kind=imported.kind,
        model_sha256=imported.sha256,
        part=job.shared.part,
        classes_sha256=_file_digest(request.classes) if request.classes else "",
        profile=job.profile.id,
        profile_sha256=profile_digest(job.profile),
        calibration=first.calibration if first else _named(request.calibration),
        kind=samples.kind,
        count=samples.count,
        data_sha256=samples.digest,
        labels=first.labels if first else _named(str(request.labels) if request.labels else None),
        judge_sha256=judged.digest if judged else "",
        built=built,
        parts=parts,
        tools=tools,
    )


def _named(spec: str | None) -> str:
    """Return the name of a file or folder without where it lies on this machine; a callable's is left as it is."""
    return Path(spec).resolve().name if spec and Path(spec).exists() else spec or ""


def profile_digest(profile: DeviceProfile) -> str:
    """Return the SHA-256 of all that a conversion reads of a profile."""
    read = {key: value for key, value in asdict(profile).items() if key not in INERT}
    return hashlib.sha256(strict_json.dumps(read).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc}", "check the path") from exc


def replayed(request: Request, recipe: Recipe) -> Request:
    """Return the request that a recipe makes of what was given beside it.

    UsageError for what contradicts the recipe, or for a file or function that it needs and that was not given.
    """
    if recipe.part:
        raise BadInput(
            f"this is the recipe of the part '{recipe.part}' of a model", "give that of the bundle which it is in"
        )
    taken: dict[str, Any] = {name: _taken(request, recipe, name) for name in TAKEN}
    for name, text in _needed(recipe).items():
        _check_given(request, name, text)
    calibration = "random" if recipe.kind == "random" else request.calibration
    profiles = request.profiles or (recipe.profile,)
    return replace(request, **taken, calibration=calibration, profiles=profiles, replay=recipe)


def _taken(request: Request, recipe: Recipe, name: str) -> object:
    default = next(one.default for one in fields(Request) if one.name == name)
    asked = request.bundle_name if name == "name" and request.name else getattr(request, name)
    said = "" if name == "metric" and recipe.evaluate else getattr(recipe, name)
    if asked not in ({}, default, said):
        flag = {"shapes": "shape", "images": "image", "parity_db": "parity"}.get(name, name.replace("_", "-"))
        raise UsageError(
            f"--{flag} is not what the recipe says: {_words(asked)} and {_words(said)}",
            f"leave --{flag} away, or convert without --recipe",
        )
    return said


def _words(value: object) -> str:
    return strict_json.dumps(value).strip() if isinstance(value, str | int | float) else str(value or "nothing")


def _needed(recipe: Recipe) -> dict[str, str]:
    """Return, for each field that must be given again, what it was; "" where it must not be given."""
    return {
        "calibration": "" if recipe.kind == "random" else recipe.calibration,
        "labels": recipe.labels,
        "evaluate": recipe.evaluate or "",
        "classes": "the class names" if recipe.classes_sha256 else "",
        "factory": recipe.factory or "",
    }


def _check_given(request: Request, name: str, text: str) -> None:
    given = getattr(request, name)
    if text and given is None:
        raise UsageError(
            f"the recipe needs --{name}: a recipe holds no data and runs no code of its own",
            f"give --{name} again; it was {text}",
        )
    unasked = given is not None and not text and given != "random"
    if unasked or (name in ("evaluate", "factory") and given is not None and given != text):
        raise UsageError(
            f"--{name} {given} is not what the recipe says: {text or 'nothing'}",
            f"leave --{name} away, or convert without --recipe" if unasked else f"give --{name} {text}",
        )


def check_model(recipe: Recipe, imported: Imported, request: Request) -> None:
    """Raise BadInput unless this is the model that the recipe was made from, with the same class names."""
    if imported.sha256 != recipe.model_sha256:
        raise BadInput(
            f"{request.model} has SHA-256 {imported.sha256[:16]}…, the recipe is for {recipe.model_file} with "
            f"{recipe.model_sha256[:16]}…",
            "give that model, or convert this one without --recipe",
        )
    if request.classes and _file_digest(request.classes) != recipe.classes_sha256:
        raise BadInput(f"{request.classes} is not the file of class names of the recipe", "give that file")


def check_profiles(recipe: Recipe, profiles: list[DeviceProfile]) -> None:
    """Raise UsageError unless the one profile is the recipe's."""
    if [profile.id for profile in profiles] != [recipe.profile]:
        names = ", ".join(profile.id for profile in profiles)
        raise UsageError(
            f"the recipe is for the profile '{recipe.profile}', not for {names}",
            "leave -p away, or convert for other profiles without --recipe",
        )


def check_data(recipe: Recipe, shared: Shared) -> None:
    """Raise BadInput unless the samples and what judges the variants are those of the recipe."""
    samples, judged = shared.samples, shared.evaluation.digest if shared.evaluation else ""
    if samples.digest != recipe.data_sha256:
        raise BadInput(
            f"these are other samples: {samples.count} with SHA-256 {samples.digest[:16]}…, the recipe was calibrated "
            f"with {recipe.count} of {recipe.data_sha256[:16]}…",
            f"give the same --calibration ({recipe.calibration or recipe.kind}), or convert without --recipe",
        )
    if judged != recipe.judge_sha256:
        raise BadInput(
            f"what judges the variants has SHA-256 {judged[:16] or 'none'}, the recipe {recipe.judge_sha256[:16]}",
            "give the same file of --labels or --evaluate, or convert without --recipe",
        )


def differences(recipe: Recipe, profile: DeviceProfile, tools: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each thing that may make the bytes differ from those of the recipe's bundle."""
    if profile_digest(profile) != recipe.profile_sha256:
        yield f"the profile '{profile.id}' has changed since the recipe was made: the bytes may differ"
    for name in sorted(tools.keys() | recipe.tools.keys()):
        here, there = tools.get(name, "missing"), recipe.tools.get(name, "missing")
        if here != there:
            yield f"{name} is {here} here and {there} in the recipe: the bytes may differ"
