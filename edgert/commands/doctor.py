"""`edgert doctor`: versions, providers and devices, and the command that installs what is missing."""

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from edgert import __version__, host
from edgert.commands.printing import print_json, table
from edgert.errors import EdgertError
from edgert.profile import detect_profile

PACKAGES = {
    "onnxruntime": "",
    "numpy": "",
    "onnx": "convert",
    "onnx-ir": "convert",
    "onnxscript": "convert",
    "pillow": "media",
    "securesystemslib": "sign",
    "onnxruntime-qnn": "npu",
    "onnxruntime-ep-webgpu": "webgpu",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(as_json: bool) -> None:
    """Show what is installed, which processors can be used, and how to get the rest.

    \b
    Example:
      edgert doctor
    """
    from edgert.runtime.providers import discover

    devices, absents = discover(allow_emulated=True)
    facts = host.host_facts()
    packages = {name: _installed(name) for name in PACKAGES}
    missing = [{"what": absent.provider, "reason": absent.reason, "remedy": absent.remedy} for absent in absents] + [
        {"what": name, "reason": "not installed", "remedy": f"pip install 'edgert[{PACKAGES[name]}]'"}
        for name, found in packages.items()
        if found is None
    ]
    document = {
        "edgert": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": {"name": facts.cpu_name, "arch": facts.arch, "isa": list(facts.isa), "cores": facts.cores},
        "profile": _profile(facts),
        "packages": packages,
        "devices": [
            {
                "provider": device.provider,
                "processor": device.processor,
                "emulated": device.emulated,
                "detail": device.detail,
            }
            for device in devices
        ],
        "missing": missing,
    }
    if as_json:
        print_json(document)
        return
    click.echo(f"edgert {__version__}, Python {document['python']}, {document['system']}")
    click.echo(f"{facts.cpu_name or 'unknown CPU'}, {facts.arch}, {facts.cores} cores [{' '.join(facts.isa)}]")
    click.echo(f"profile of this machine: {document['profile'] or 'none fits'}\n")
    click.echo(table(("package", "version"), [(name, found or "-") for name, found in packages.items()]))
    rows = [
        (device.processor, device.provider, "emulated" if device.emulated else "real", device.detail)
        for device in devices
    ]
    click.echo("\n" + table(("processor", "provider", "is", "detail"), rows))
    for entry in missing:
        click.echo(f"\nmissing: {entry['what']}: {entry['reason']}\n  remedy: {entry['remedy']}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _profile(facts: host.HostFacts) -> str | None:
    try:
        return detect_profile(facts)
    except EdgertError:
        return None
