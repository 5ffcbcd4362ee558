"""What a Hugging Face folder is for: the kind of task, read from its configuration or given by `--task`.

`kind` is a word of edgert's manifest, `task` one of optimum, `output` the one output that the graph keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol import Failed
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    WhisperForConditionalGeneration,
)
from transformers.models.auto import modeling_auto as names


@dataclass(frozen=True)
class Kind:
    """One kind of task. `architectures`: model type -> names of the classes that transformers has for it."""

    kind: str
    task: str
    output: str
    auto: Any
    architectures: Mapping[str, Any]


KINDS = (
    Kind(
        "text-classification",
        "text-classification",
        "logits",
        AutoModelForSequenceClassification,
        names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    Kind(
        "image-classification",
        "image-classification",
        "logits",
        AutoModelForImageClassification,
        names.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    ),
    Kind(
        "audio-classification",
        "audio-classification",
        "logits",
        AutoModelForAudioClassification,
        names.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    ),
    Kind("speech-to-text", "", "", WhisperForConditionalGeneration, {"whisper": "WhisperForConditionalGeneration"}),
    Kind("feature-extraction", "feature-extraction", "last_hidden_state", AutoModel, names.MODEL_MAPPING_NAMES),
    Kind("sentence-embedding", "feature-extraction", "sentence_embedding", AutoModel, names.MODEL_MAPPING_NAMES),
)


def kind_of(config: Mapping[str, Any], asked: str | None, is_sentence_transformer: bool) -> Kind:
    """Return the kind that is asked for, else the one that the folder tells; raises Failed where there is none."""
    by_name = {kind.kind: kind for kind in KINDS}
    if asked is not None:
        if asked not in by_name:
            raise Failed(f"the task '{asked}' is not supported", f"supported: {', '.join(by_name)}", "UsageError")
        return by_name[asked]
    if is_sentence_transformer:
        return by_name["sentence-embedding"]
    model_type = config.get("model_type", "")
    architectures = config.get("architectures") or []
    for name in architectures:
        for kind in KINDS:
            known = kind.architectures.get(model_type, ())
            if name == known or (not isinstance(known, str) and name in known):
                return kind
    what = f"an architecture of config.json, {', '.join(architectures)}," if architectures else "config.json, which"
    raise Failed(
        f"{what} names no task that is supported (model_type '{model_type}')",
        f"supported: {', '.join(by_name)}; give one with --task, such as --task feature-extraction for the model"
        " without its head",
    )
