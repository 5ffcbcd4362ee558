"""Transcribe with transformers itself: the reference that a bundle is compared with.

    python source.py FOLDER WAVES.npz OUT.json

Run by `accuracy.py` with the Python of the environment that has transformers, so it imports nothing of edgert.
`WAVES.npz` holds float32 waves at 16 kHz; OUT.json gets their texts, in the order of the names.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration


def main(folder: str, waves: str, out: str) -> None:
    """Write the texts that greedy generation gives."""
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = []
    with np.load(waves) as arrays, torch.no_grad():
        for name in sorted(arrays.files):
            features = extractor(arrays[name], sampling_rate=16_000, return_tensors="pt").input_features
            (tokens,) = model.generate(features, max_new_tokens=224, do_sample=False, num_beams=1)
            texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
    Path(out).write_text(json.dumps(texts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
