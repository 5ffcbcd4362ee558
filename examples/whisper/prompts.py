"""Telephone prompts with transcripts, to measure speech to text: Debian's asterisk-core-sounds-en (CC-BY-SA-3.0).

    python -m examples.whisper.prompts    fetch them and print the folder

563 clips of one speaker, 8 kHz. Debian's packages are fetched with apt-get and unpacked with dpkg-deb, not installed;
the files are kept in the cache of `examples.models`. Where there is no apt-get, this says so.
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import EdgertError, EnvironmentFailed
from examples.models import models_dir

PACKAGES = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")
SOUNDS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
LONGEST_S = 30.0
FEWEST_WORDS = 8


@dataclass(frozen=True)
class Prompt:
    """One clip: its file and what is said in it."""

    file: Path
    text: str


def prompts(count: int) -> list[Prompt]:
    """Return `count` prompts, evenly spread over the alphabet, that say a sentence or more in half a minute at most."""
    every = _sentences(fetch())
    return [every[index * len(every) // count] for index in range(min(count, len(every)))]


def _sentences(folder: Path) -> list[Prompt]:
    found = []
    for line in gzip.decompress((folder / TRANSCRIPTS.name).read_bytes()).decode("utf-8", "replace").splitlines():
        name, colon, text = line.partition(":")
        file = folder / f"{name}.wav"
        # In brackets stands what is heard and not said; a name with a folder is of another package.
        if (
            colon
            and "[" not in text
            and len(text.split()) >= FEWEST_WORDS
            and file.is_file()
            and _seconds(file) < LONGEST_S
        ):
            found.append(Prompt(file, text.strip()))
    return sorted(found, key=lambda prompt: prompt.file.name)


def _seconds(file: Path) -> float:
    with wave.open(str(file)) as sound:
        return sound.getnframes() / sound.getframerate()


def fetch() -> Path:
    """Return the folder with the clips and their transcripts, fetching Debian's packages when the cache has none.

    Raises EnvironmentFailed where apt-get or dpkg-deb is missing or fails.
    """
    place = models_dir() / PACKAGES[1]
    if (place / TRANSCRIPTS.name).is_file():
        return place
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise EnvironmentFailed(f"{tool} is missing: this is no Debian-like system", _remedy(place))
    models_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir()) as scratch:
        for package in PACKAGES:
            _run(["apt-get", "download", package], Path(scratch), place)
        for file in sorted(Path(scratch).glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(file), "unpacked"], Path(scratch), place)
        unpacked = Path(scratch) / "unpacked"
        shutil.copyfile(unpacked / TRANSCRIPTS, unpacked / SOUNDS / TRANSCRIPTS.name)
        (unpacked / SOUNDS).replace(place)
    return place


def _run(command: Sequence[str], folder: Path, place: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:") or "error" in line]
        raise EnvironmentFailed(
            f"{' '.join(command[:3])} ended with {done.returncode}: {said[0] if said else 'it said nothing'}",
            _remedy(place),
        )


def _remedy(place: Path) -> str:
    return f"run apt-get update first; or put the .wav files and {TRANSCRIPTS.name} of {PACKAGES[0]} into {place}"


if __name__ == "__main__":
    try:
        print(fetch())
    except EdgertError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
