"""The bundles that a device has at hand, by digest: which of them it runs is the server's to say."""

from pathlib import Path

from edgert.bundle import check_bundle
from edgert.errors import BadInput, EdgertError


def find_bundle(folder: Path | None, digest: object) -> Path:
    """Return the bundle in `folder` that has this digest; BadInput where there is none."""
    if folder is None:
        raise BadInput("this agent has no folder of bundles", "name one: [bundle] library")
    there = list[str]()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            _, found = check_bundle(path)
        except EdgertError:
            continue  # something else, or damaged: it is not what was asked for
        if found == digest:
            return path
        there.append(path.name)
    names = ", ".join(there) or "none"
    raise BadInput(f"no bundle in {folder} has the digest {str(digest)[:64]}; there are: {names}", "put it there")
