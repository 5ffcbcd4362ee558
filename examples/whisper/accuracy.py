"""Word error rate of a Whisper bundle, or of a Hugging Face folder run by transformers, on telephone prompts.

    python -m examples.whisper.accuracy whisper.edgert
    python -m examples.whisper.accuracy whisper-folder/ --clips 100

Prints what was heard wrong, and the rate. `words.py` says which differences do not count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edgert
from converters.sources import child, environments
from edgert.errors import EdgertError, EnvironmentFailed, UsageError
from edgert.runtime.audio import read_sound
from edgert.runtime.prepare import open_preparer
from edgert.runtime.tokens import Tokenizer
from edgert.runtime.transcribe import generate
from examples.whisper.prompts import Prompt, prompts
from examples.whisper.words import word_error_rate, words

CLIPS = 13
SAMPLE_RATE = 16_000


def bundle_texts(bundle: Path, clips: Sequence[Prompt], device: str = "auto") -> list[str]:
    """Return what the bundle hears in each clip."""
    with edgert.load(bundle, device=device) as model:
        task = model.bundle.manifest.task
        if task is None or task.generate is None or task.text is None:
            raise UsageError(f"{bundle} is no bundle for speech to text", "convert a Whisper folder")
        preparer = open_preparer(task, model.inputs, model.bundle.file)
        tokenizer = Tokenizer.open(model.bundle.file(task.text.tokenizer), task.text)
        decoder = model.part(task.generate.decoder)
        encoded = (model.run(preparer.sound(clip.file)) for clip in clips)
        return [tokenizer.decode(generate(outputs, decoder, task.generate)) for outputs in encoded]


def source_texts(folder: Path, clips: Sequence[Prompt]) -> list[str]:
    """Return what transformers hears in each clip with the model of a Hugging Face folder."""
    python = environments.find(["huggingface"])
    with tempfile.TemporaryDirectory() as scratch:
        waves, out = Path(scratch) / "waves.npz", Path(scratch) / "texts.json"
        np.savez(waves, **{f"{index:04}": read_sound(clip.file, SAMPLE_RATE) for index, clip in enumerate(clips)})
        command = [str(python), str(Path(__file__).with_name("source.py")), str(folder.resolve()), str(waves), str(out)]
        environ = {**os.environ, **child.OFFLINE}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        if done.returncode:
            raise EnvironmentFailed(f"transformers ended with {done.returncode}: {done.stderr[-300:]}", "see above")
        texts: list[str] = json.loads(out.read_text(encoding="utf-8"))
        return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the word error rate; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.whisper.accuracy", description=__doc__)
    parser.add_argument("model", type=Path, help="a bundle, or a Hugging Face folder")
    parser.add_argument("--clips", type=int, default=CLIPS, help="how many prompts (default %(default)s)")
    parser.add_argument("--device", default="auto", help="for a bundle, as `edgert run --device`")
    options = parser.parse_args(arguments)
    try:
        clips = prompts(options.clips)
        is_folder = (options.model / "config.json").is_file()
        heard = source_texts(options.model, clips) if is_folder else bundle_texts(options.model, clips, options.device)
    except EdgertError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for clip, text in zip(clips, heard, strict=True):
        if words(clip.text) != words(text):
            print(f"{clip.file.stem}\n  said:  {clip.text}\n  heard: {text.strip()}")
    rate = word_error_rate((clip.text, text) for clip, text in zip(clips, heard, strict=True))
    print(f"word error rate {rate:.4f} over {len(clips)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
