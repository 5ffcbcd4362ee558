"""Top-1 and top-5 of an EfficientNet bundle, or of the state_dict run by PyTorch itself, on photos with known classes.

    python -m examples.efficientnet.top1 PHOTOS effnet.edgert
    python -m examples.efficientnet.top1 PHOTOS efficientnet-lite0.pth

PHOTOS is a folder with `labels.json`: file name -> {"class_index": 0..999}.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import edgert
from converters.sources import pytorch
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, EdgertError
from edgert.image_spec import parse_image_spec
from edgert.runtime.images import load_image

FACTORY = "examples.efficientnet.model:build"
RULES = "mean=127,std=128,resize=crop,filter=bicubic"
"""Of a photo, the middle square; the same words go to `edgert convert --image`."""

SHAPE = (1, 3, 224, 224)

Feeds = Mapping[str, np.ndarray]


def read_labels(photos: Path) -> dict[Path, int]:
    """Return the class of each photo in the folder."""
    try:
        document = json.loads((photos / "labels.json").read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"{photos} has no labels.json that can be read", "see the help for what it holds") from exc
    return {photos / name: int(entry["class_index"]) for name, entry in document.items()}


def bundle_logits(bundle: Path, samples: Sequence[Feeds]) -> np.ndarray:
    """Return what the bundle's best variant gives for each sample, [N, 1000]."""
    with edgert.load(bundle) as model:
        return np.concatenate([model.run(sample)["logits"] for sample in samples])


def source_logits(weights: Path, samples: Sequence[Feeds]) -> np.ndarray:
    """Return what PyTorch gives for each sample, [N, 1000]."""
    with tempfile.TemporaryDirectory() as workdir:
        return rerun_logits(pytorch.load(weights, Options(workdir=Path(workdir), factory=FACTORY)), samples)


def rerun_logits(imported: Imported, samples: Sequence[Feeds]) -> np.ndarray:
    """Return what the source of an imported model gives for each sample, [N, 1000]."""
    assert imported.rerun is not None
    with tempfile.TemporaryDirectory() as given, tempfile.TemporaryDirectory() as made:
        for number, sample in enumerate(samples):
            np.savez(Path(given) / f"{number:04}.npz", **sample)
        imported.rerun(Path(given), Path(made), "")
        return np.concatenate([np.load(file)["logits"] for file in sorted(Path(made).glob("*.npz"))])


def accuracy(logits: np.ndarray, classes: Sequence[int], among: int) -> float:
    """Return the share of rows whose class is among the `among` largest."""
    best = np.argsort(-logits, axis=1)[:, :among]
    return float((best == np.array(classes)[:, None]).any(axis=1).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.efficientnet.top1", description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder of photos with labels.json")
    parser.add_argument("model", type=Path, help="a bundle, or the state_dict")
    options = parser.parse_args(arguments)
    try:
        labels = read_labels(options.photos)
        rules = parse_image_spec(RULES)
        samples = [{"image": load_image(file, rules, SHAPE, "float32")} for file in labels]
        is_source = pytorch.matches(options.model)
        logits = (source_logits if is_source else bundle_logits)(options.model, samples)
    except EdgertError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    classes = list(labels.values())
    top1, top5 = accuracy(logits, classes, 1), accuracy(logits, classes, 5)
    print(f"top-1 {top1:.3f}, top-5 {top5:.3f} over {len(classes)} photos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
