"""Make tiny Hugging Face folders with random weights: `python tiny_huggingface.py OUT TOKENIZER_JSON`.

Run by the Python of the environment that has transformers. Sizes are as small as the architectures allow.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTImageProcessor,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

NAMES = {0: "cat", 1: "dog", 2: "bird"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {"vocab_size": 30522, **SMALL}
LABELS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
SOUND = {
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def save(folder: Path, model: PreTrainedModel, *others: object) -> None:
    """Save a model whose weights are random and large enough to tell mistakes from rounding."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    for other in others:
        other.save_pretrained(folder)  # type: ignore[attr-defined]


def sentence_transformer(folder: Path, model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a folder as sentence-transformers does: every mode of pooling, then a dense layer, then length 1."""
    save(folder, model, tokenizer)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = {
        f"pooling_mode_{mode}": True for mode in ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
    }
    dense = {
        "in_features": 128,
        "out_features": 24,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    for path, config in (("1_Pooling", {"word_embedding_dimension": 32, **modes}), ("2_Dense", dense)):
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)
    weights = {"linear.weight": random.normal(size=(24, 128)), "linear.bias": random.normal(size=24)}
    save_file(
        {name: (array / 8).astype(np.float32) for name, array in weights.items()},
        folder / "2_Dense" / "model.safetensors",
    )


def main(out: Path, tokenizer_json: str) -> None:
    """Make all folders in `out`."""
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_json, model_max_length=64, pad_token="[PAD]")
    many = BertConfig(problem_type="multi_label_classification", **TEXT, **LABELS)
    save(out / "text", BertForSequenceClassification(many), tokenizer)
    sentence_transformer(out / "sentence", BertModel(BertConfig(**TEXT)), tokenizer)
    save(out / "unknown-operator", BertModel(BertConfig(hidden_act="xielu", **TEXT)), tokenizer)
    save(
        out / "picture",
        MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, **LABELS)),
        MobileNetV2ImageProcessor(
            size={"shortest_edge": 72},
            crop_size={"height": 64, "width": 64},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
            resample=3,
        ),
    )
    save(
        out / "stretched-and-cut",
        DeiTForImageClassification(DeiTConfig(image_size=32, patch_size=8, **SMALL, **LABELS)),
        DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
    )
    save(
        out / "sound",
        Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SMALL, **SOUND, **LABELS)),
        Wav2Vec2FeatureExtractor(do_normalize=True),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
