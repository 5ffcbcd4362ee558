"""Whisper as two ONNX graphs without `If`: the encoder with what every step needs of it, and one decoder.

optimum writes four files (encoder, decoder, decoder with past, and the last two merged under an `If`): the decoder's
weights two or three times, or subgraphs that cannot be quantized or placed on an accelerator. Here the encoder's graph
ends in the keys and values that the decoder's cross attention reads, which are the same at every step, and the one
decoder takes a past of any length, 0 at the first step. Every weight is there once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Failed
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

OPSET = 18
MASKED = -1e4  # exp of it is 0 in every precision, and it is finite in float16
TRACED_TOKENS = 3
TRACED_PAST = 5


class Encoder(nn.Module):
    """input_features [batch, mels, frames] -> key and value of each decoder layer [batch, heads, frames / 2, width]."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.model.encoder
        self.attentions = nn.ModuleList(layer.encoder_attn for layer in model.model.decoder.layers)

    def forward(self, input_features: Tensor) -> tuple[Tensor, ...]:
        hidden = self.encoder(input_features).last_hidden_state
        found: list[Tensor] = []
        for attention in self.attentions:
            found += (_heads(attention, attention.k_proj(hidden)), _heads(attention, attention.v_proj(hidden)))
        return tuple(found)


class Decoder(nn.Module):
    """input_ids [batch, tokens], and per layer past and cross keys and values -> logits and the new past.

    The layers are those of transformers; what is written out here is what its caches do, which cannot be traced.
    """

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.decoder = model.model.decoder

    def forward(self, input_ids: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        layers = len(self.decoder.layers)
        past, cross = states[: 2 * layers], states[2 * layers :]
        start = past[0].shape[2]
        tokens = torch.arange(start, start + input_ids.shape[1])
        mask = (torch.arange(0, start + input_ids.shape[1]) > tokens[:, None]).to(torch.float32) * MASKED
        hidden = self.decoder.embed_tokens(input_ids) + self.decoder.embed_positions.weight[tokens]
        present: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers):
            at = slice(2 * index, 2 * index + 2)
            normal = layer.self_attn_layer_norm(hidden)
            key = torch.cat([past[at][0], _heads(layer.self_attn, layer.self_attn.k_proj(normal))], dim=2)
            value = torch.cat([past[at][1], _heads(layer.self_attn, layer.self_attn.v_proj(normal))], dim=2)
            present += (key, value)
            hidden = hidden + _attend(layer.self_attn, normal, key, value, mask)
            normal = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + _attend(layer.encoder_attn, normal, *cross[at], None)
            normal = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normal)))
        # Gemm reads the embedding's weight as it is, where MatMul needs a transposed copy of this, the largest one.
        table = self.decoder.embed_tokens.weight
        rows = self.decoder.layer_norm(hidden).reshape(-1, table.shape[1])
        logits = torch.addmm(torch.zeros(1), rows, table.t())
        logits = logits.reshape(hidden.shape[0], hidden.shape[1], table.shape[0])
        return (logits, *present)


def _heads(attention: Any, states: Tensor) -> Tensor:
    """[batch, tokens, heads * width] -> [batch, heads, tokens, width]"""
    shape = (states.shape[0], states.shape[1], attention.num_heads, attention.head_dim)
    return states.view(shape).transpose(1, 2)


def _attend(attention: Any, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    query = _heads(attention, attention.q_proj(hidden) * attention.scaling)
    scores = torch.matmul(query, key.transpose(2, 3))
    scores = scores if mask is None else scores + mask
    mixed = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)
    return attention.out_proj(mixed.reshape(hidden.shape[0], hidden.shape[1], attention.embed_dim))


def names(model: WhisperForConditionalGeneration, prefix: str) -> list[str]:
    """Return `<prefix>_key_0`, `<prefix>_value_0`, `<prefix>_key_1`, … for every layer of the decoder."""
    layers = range(model.config.decoder_layers)
    return [f"{prefix}_{what}_{layer}" for layer in layers for what in ("key", "value")]


def export(model: WhisperForConditionalGeneration, encoder: Path, decoder: Path) -> None:
    """Write the two graphs."""
    config = model.config
    if not torch.equal(model.proj_out.weight, model.model.decoder.embed_tokens.weight):
        raise Failed(
            "the output layer's weight differs from the embedding's, which no Whisper has",
            "save the model with tied weights",
            "GateFailed",
        )
    cross, past, present = (names(model, prefix) for prefix in ("cross", "past", "present"))
    frames = 2 * config.max_source_positions
    features = torch.zeros(2, config.num_mel_bins, frames)
    batch = {0: "batch"}
    _write(
        Encoder(model),
        (features,),
        encoder,
        ["input_features"],
        cross,
        dict.fromkeys(["input_features", *cross], batch),
    )
    heads = config.decoder_attention_heads
    width = config.d_model // heads
    pasts = [torch.randn(2, heads, TRACED_PAST, width) for _ in past]
    crosses = [torch.randn(2, heads, config.max_source_positions, width) for _ in cross]
    dims: dict[str, dict[int, str]] = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "logits")}
    dims |= dict.fromkeys(cross, batch)
    dims |= {name: {0: "batch", 2: "past"} for name in past}
    dims |= {name: {0: "batch", 2: "past_and_tokens"} for name in present}
    ids = torch.ones(2, TRACED_TOKENS, dtype=torch.int64)
    inputs = (ids, *pasts, *crosses)
    _write(Decoder(model), inputs, decoder, ["input_ids", *past, *cross], ["logits", *present], dims)


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dims: Mapping[str, Mapping[int, str]],
) -> None:
    torch.onnx.export(
        module.eval(),
        inputs,
        str(path),
        input_names=list(input_names),
        output_names=list(output_names),
        dynamic_axes={name: dict(axes) for name, axes in dims.items()},
        opset_version=OPSET,
        dynamo=False,  # as optimum exports
    )


def run(model: WhisperForConditionalGeneration, part: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what transformers itself makes of the inputs of the main graph (`part` "") or of the decoder."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    cross, past, present = (names(model, prefix) for prefix in ("cross", "past", "present"))
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    if part == "":
        encoded = model.model.encoder(tensors["input_features"])
        start = torch.full((len(tensors["input_features"]), 1), model.config.decoder_start_token_id)
        model.model.decoder(
            start, encoder_hidden_states=encoded.last_hidden_state, past_key_values=cache, use_cache=True
        )
        return _cached(cache.cross_attention_cache, cross)
    for layer in range(model.config.decoder_layers):
        at = slice(2 * layer, 2 * layer + 2)
        cache.self_attention_cache.update(*(tensors[name] for name in past[at]), layer)
        cache.cross_attention_cache.update(*(tensors[name] for name in cross[at]), layer)
        cache.is_updated[layer] = True
    # The decoder asks for the encoder's states only to know that there are some: the cache holds their keys and values.
    states = torch.zeros(len(tensors["input_ids"]), model.config.max_source_positions, model.config.d_model)
    made = model.model.decoder(
        tensors["input_ids"], encoder_hidden_states=states, past_key_values=cache, use_cache=True
    )
    logits = model.proj_out(made.last_hidden_state)
    return {"logits": logits.numpy(), **_cached(cache.self_attention_cache, present)}


def _cached(cache: DynamicCache, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return {name: tensor.numpy() for name, tensor in zip(wanted, tensors, strict=True)}
