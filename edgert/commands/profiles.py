"""`edgert profiles`: list, show or detect device profiles."""

import dataclasses

import click

from edgert import host
from edgert.commands.printing import print_json, table
from edgert.profile import DeviceProfile, detect_profile, list_profiles, load_profile


@click.group(invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """List, show or detect device profiles.

    \b
    Example:
      edgert profiles list
      edgert profiles show raspberry-pi-5
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@profiles.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_command(as_json: bool = False) -> None:
    """List the device profiles."""
    found = [load_profile(name) for name in list_profiles()]
    if as_json:
        print_json({"profiles": [_row(profile) for profile in found]})
        return
    rows = [
        (profile.id, profile.processor, " > ".join(choice.name for choice in profile.providers), profile.name)
        for profile in found
    ]
    click.echo(table(("profile", "for", "providers", "device"), rows))


@profiles.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, as_json: bool) -> None:
    """Show one profile: NAME is a name from the list or a path to a .toml file."""
    profile = load_profile(name)
    if as_json:
        print_json({"profile": _plain(dataclasses.asdict(profile))})
        return
    click.echo(f"{profile.id}: {profile.name}")
    click.echo(f"  {profile.kind}, {profile.arch} [{' '.join(profile.isa)}], {', '.join(profile.os)}")
    click.echo(f"  shapes {profile.shapes}, opset {profile.opset}")
    for choice in profile.providers:
        click.echo(f"  {choice.processor}: {choice.name}, precisions {', '.join(choice.precisions)}")
    for key, figure in profile.figures.items():
        click.echo(f"  {key} = {figure.value:g}   source: {figure.source}")
    for note in profile.notes:
        click.echo(f"  note: {note}")


@profiles.command("detect")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def detect(as_json: bool) -> None:
    """Name the profile of this machine's own processor."""
    facts = host.host_facts()
    name = detect_profile(facts)
    if as_json:
        print_json({"profile": name, "cpu": facts.cpu_name, "arch": facts.arch, "isa": list(facts.isa)})
        return
    click.echo(name)


def _row(profile: DeviceProfile) -> dict[str, object]:
    return {
        "id": profile.id,
        "name": profile.name,
        "kind": profile.kind,
        "processor": profile.processor,
        "providers": [choice.name for choice in profile.providers],
    }


def _plain(value: object) -> object:
    """Return dataclass content with tuples and mappings as JSON lists and objects."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
