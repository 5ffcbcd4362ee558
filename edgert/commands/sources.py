"""`edgert sources`: list, install and remove the environments in which models' own frameworks live."""

import importlib
from typing import Any

import click

from edgert.commands.printing import print_json, table


@click.group()
def sources() -> None:
    """List, install or remove the frameworks that models come from, each in an environment of its own.

    \b
    Example:
      edgert sources install huggingface
      edgert sources install torch --with timm
    """


@sources.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_sources(as_json: bool) -> None:
    """Show which environments there are and where each is found."""
    module = _environments()
    rows = [_row(module, environment) for environment in module.ENVIRONMENTS.values()]
    if as_json:
        print_json({"environments": rows})
        return
    shown = [(row["name"], row["state"], row["size"], row["what"]) for row in rows]
    click.echo(table(("name", "state", "size", "for"), shown))


@sources.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--with", "extra", multiple=True, metavar="PACKAGE", help="A package your model needs; repeatable.")
def install(names: tuple[str, ...], extra: tuple[str, ...]) -> None:
    """Make the environment NAME in edgert's cache folder, with pip and its settings."""
    module = _environments()
    for name in names:
        module.known(name)
    for name in names:
        folder = module.install(name, extra, lambda line: click.echo(line, err=True))
        click.echo(f"{name} is ready in {folder}")


@sources.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the environment NAME."""
    gone = _environments().remove(name)
    click.echo(f"{name} is removed" if gone else f"{name} was not installed")


def _environments() -> Any:
    return importlib.import_module("converters.sources.environments")


def _row(module: Any, environment: Any) -> dict[str, Any]:
    packages = module.installed_packages(environment.name)
    here = module.importable(environment)
    state = "this Python" if here else "installed" if packages else "not installed"
    return {
        "name": environment.name,
        "state": state,
        "size": environment.size,
        "what": environment.what,
        "packages": list(packages or environment.requirements),
    }
