"""`edgert inspect`: show what is in a bundle, after checking every byte of it."""

from pathlib import Path

import click

from edgert import strict_json
from edgert.bundle import Bundle, check_bundle, open_bundle, read_signature
from edgert.commands.printing import megabytes, print_json, table
from edgert.image_spec import ImageSpec
from edgert.manifest import manifest_bytes


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
    return f"color={spec.color},mean={mean},std={std},resize={spec.resize}"


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
