"""`edgert inspect`: show what is in a bundle, after checking every byte of it."""

from pathlib import Path

import click

from edgert import strict_json
from edgert.bundle import Bundle, check_bundle, open_bundle, read_signature
from edgert.commands.printing import megabytes, print_json, table
from edgert.image_spec import ImageSpec
from edgert.manifest import manifest_bytes
from edgert.task import Task


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Check BUNDLE and show what its manifest says; --json has the measurements too.

    \b
    Example:
      edgert inspect model-raspberry-pi-5.edgert
    """
    check_bundle(bundle)
    opened = open_bundle(bundle)
    if as_json:
        print_json(
            {
                "path": str(bundle),
                "digest": opened.digest,
                "signed": read_signature(bundle) is not None,
                "manifest": strict_json.loads(manifest_bytes(opened.manifest), "manifest"),
                "measurements": opened.measurements(),
            }
        )
        return
    _print(opened)


def _image_words(spec: ImageSpec) -> str:
    """Return image rules as `edgert convert --image` takes them."""
    mean, std = ("/".join(f"{number:g}" for number in numbers) for numbers in (spec.mean, spec.std))
    words = f"color={spec.color},mean={mean},std={std},resize={spec.resize}"
    words += f",filter={spec.filter}" if spec.filter != ImageSpec.filter else ""
    return words + (f",shortest_edge={spec.shortest_edge}" if spec.shortest_edge else "")


def _task_lines(task: Task) -> list[str]:
    """Return what the task says, one line for each of its steps."""
    labels = f", names in {task.labels}" if task.labels else ""
    scores = f" by {task.scores}" if task.scores != "none" else ""
    lines = [f"task {task.kind}: output {task.output}{scores}{labels}"]
    if task.text is not None:
        into = ", ".join(name for name in (task.text.ids, task.text.mask, task.text.types) if name)
        lines.append(
            f"text by {task.text.tokenizer}" + (f" into {into}, at most {task.text.max_tokens} tokens" if into else "")
        )
    if task.audio is not None:
        audio = task.audio
        features = f"{audio.mels} log-mel bands" if audio.features == "log-mel" else audio.features
        length = f", {audio.seconds:g} s" if audio.seconds else ""
        lines.append(f"sound into {audio.input}: {audio.sample_rate} Hz, {features}{length}")
    if task.generate is not None:
        lines.append(f"tokens from the part {task.generate.decoder}, at most {task.generate.max_tokens}")
    return lines


def _print(bundle: Bundle) -> None:
    manifest = bundle.manifest
    click.echo(
        f"{manifest.name} {manifest.version} for {manifest.profile} ({manifest.arch}), licence {manifest.license}"
    )
    click.echo(f"digest {bundle.digest}")
    for title, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            image = f"  as picture: {_image_words(spec.image)}" if spec.image else ""
            click.echo(f"{title} {spec.name}: {spec.dtype} {list(spec.shape)}{image}")
    for line in _task_lines(manifest.task) if manifest.task else ():
        click.echo(line)
    for name, file in manifest.parts.items():
        click.echo(f"part {name}: {file}")
    rows = [
        (
            "*" if place.variant == manifest.chosen else " ",
            place.variant,
            place.processor,
            place.provider,
            f"{manifest.golden.min_cosine[place.variant]:.3f}",
        )
        for place in manifest.placements
    ]
    click.echo(table(("", "variant", "on", "provider", "golden cosine at least"), rows))
    click.echo(table(("file", "size", "sha256"), [(f.name, megabytes(f.bytes), f.sha256[:16]) for f in manifest.files]))
    for warning in manifest.warnings:
        click.secho(f"WARNING: {warning}", fg="yellow", bold=True)
