"""What makes one vector of a sentence, as sentence-transformers folders declare it: pooling, a dense layer, length 1.

`layers` reads the declaration, `append` writes it as ONNX nodes, `pool` computes it in torch for the comparison.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from protocol import Failed
from safetensors import SafetensorError
from safetensors.numpy import load_file

OUTPUT = "sentence_embedding"
MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
ACTIVATIONS = {"torch.nn.modules.linear.Identity": "", "torch.nn.modules.activation.Tanh": "Tanh"}
PADDED = -1e4  # added to what padding holds before a maximum is taken; finite in float16
SHORTEST = 1e-6  # torch divides by 1e-12 at least, which is 0 in float16; no real vector is as short as either


@dataclass(frozen=True)
class Layer:
    """One step after the transformer: `pooling` (its modes), `dense` (weight, bias, activation) or `normalize`."""

    kind: str
    modes: tuple[str, ...] = ()
    weight: Any = None
    bias: Any = None
    activation: str = ""


def layers(folder: Path) -> tuple[Layer, ...]:
    """Return the steps that `modules.json` declares after the transformer; mean pooling where there is no such file."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return (Layer("pooling", ("mean_tokens",)),)
    found = []
    for kind, place in _modules(folder, listed):
        if kind == "Normalize":
            found.append(Layer("normalize"))
        elif kind == "Pooling":
            found.append(Layer("pooling", _modes(_read(place))))
        elif kind == "Dense":
            found.append(_dense(place, _read(place)))
        elif kind != "Transformer":
            raise Failed(
                f"modules.json has a module '{kind}', which is not supported",
                "supported: Transformer, Pooling, Dense, Normalize; for the tokens' vectors: --task feature-extraction",
                "GateFailed",
            )
    return tuple(found)


def _modules(folder: Path, listed: Path) -> list[tuple[str, Path]]:
    try:
        modules = json.loads(listed.read_text(encoding="utf-8"))
        found = [(str(entry["type"]).rpartition(".")[2], folder / str(entry["path"])) for entry in modules]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise Failed(f"{listed} cannot be read: {exc}", "copy the whole folder again") from exc
    for _, place in found:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise Failed(f"{listed} names a path outside the folder: {place}", "give the folder as it was saved")
    return found


def _read(place: Path) -> dict[str, Any]:
    try:
        document = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise Failed(f"{place / 'config.json'} cannot be read: {exc}", "copy the whole folder again") from exc
    return dict(document)


def _modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    modes = tuple(
        key.removeprefix("pooling_mode_") for key, on in config.items() if on is True and "pooling_mode" in key
    )
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise Failed(
            f"the pooling '{', '.join(unknown) or 'none'}' is not supported",
            f"supported: {', '.join(MODES)}; or take the tokens' vectors: --task feature-extraction",
            "GateFailed",
        )
    return modes


def _dense(place: Path, config: Mapping[str, Any]) -> Layer:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation not in ACTIVATIONS or not (place / "model.safetensors").is_file():
        raise Failed(
            f"the dense layer {place.name} has the activation '{activation}' or no model.safetensors",
            f"supported: {', '.join(ACTIVATIONS)}, weights in .safetensors",
            "GateFailed",
        )
    try:
        weights = load_file(place / "model.safetensors")
        weight, bias = weights["linear.weight"], weights.get("linear.bias")
    except (SafetensorError, OSError, KeyError) as exc:
        raise Failed(f"{place}: the weights cannot be read: {exc}", "copy the whole folder again") from exc
    return Layer(
        "dense",
        weight=weight.astype(np.float32),
        bias=None if bias is None else bias.astype(np.float32),
        activation=ACTIVATIONS[activation],
    )


def pool(hidden: torch.Tensor, mask: torch.Tensor, steps: Sequence[Layer]) -> torch.Tensor:
    """Return the sentences' vectors as sentence-transformers computes them."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    vector = hidden
    for step in steps:
        if step.kind == "pooling":
            vector = torch.cat([_pooled(hidden, weights, mode) for mode in step.modes], dim=1)
        elif step.kind == "dense":
            bias = None if step.bias is None else torch.from_numpy(step.bias)
            vector = torch.nn.functional.linear(vector, torch.from_numpy(step.weight), bias)
            vector = torch.tanh(vector) if step.activation else vector
        else:
            vector = torch.nn.functional.normalize(vector, p=2, dim=1)
    return vector


def _pooled(hidden: torch.Tensor, weights: torch.Tensor, mode: str) -> torch.Tensor:
    if mode == "cls_token":
        return hidden[:, 0]
    if mode == "max_tokens":
        return hidden.masked_fill(weights == 0, -1e9).max(dim=1).values
    count = weights.sum(dim=1).clamp(min=1e-9)
    return (hidden * weights).sum(dim=1) / (count if mode == "mean_tokens" else count.sqrt())


def append(model: onnx.ModelProto, steps: Sequence[Layer]) -> None:
    """Replace the only output, `last_hidden_state` [batch, tokens, width], by `sentence_embedding` [batch, width].

    All arithmetic is float: processors that refuse integer tensors then refuse one Cast at most.
    """
    if all(value.name != "attention_mask" for value in model.graph.input):
        raise Failed("the model takes no attention_mask, which pooling needs", "use --task feature-extraction")
    writer = _Writer(model.graph)
    vector = "last_hidden_state"
    for step in steps:
        if step.kind == "pooling":
            mask = writer.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
            weights = writer.node("Unsqueeze", [mask, writer.ints(-1)])
            parts = [_append_pooled(writer, weights, mode) for mode in step.modes]
            vector = parts[0] if len(parts) == 1 else writer.node("Concat", parts, axis=1)
        elif step.kind == "dense":
            vector = writer.node("MatMul", [vector, writer.constant(step.weight.T.copy())])
            vector = vector if step.bias is None else writer.node("Add", [vector, writer.constant(step.bias)])
            vector = writer.node(step.activation, [vector]) if step.activation else vector
        else:
            squares = writer.node("ReduceSum", [writer.node("Mul", [vector, vector]), writer.ints(1)], keepdims=1)
            length = writer.node("Clip", [writer.node("Sqrt", [squares]), writer.number(SHORTEST)])
            vector = writer.node("Div", [vector, length])
    model.graph.node[-1].output[0] = OUTPUT
    (hidden,) = model.graph.output
    batch, _, width = hidden.type.tensor_type.shape.dim
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch.dim_param, _width(steps, width.dim_value)])
    hidden.CopyFrom(output)


def _append_pooled(writer: "_Writer", weights: str, mode: str) -> str:
    hidden = "last_hidden_state"
    if mode == "cls_token":
        return writer.node("Gather", [hidden, writer.index(0)], axis=1)
    kept = writer.node("Mul", [hidden, weights])
    if mode == "max_tokens":
        padded = writer.node("Mul", [writer.node("Sub", [writer.number(1.0), weights]), writer.number(PADDED)])
        return writer.node("ReduceMax", [writer.node("Add", [kept, padded]), writer.ints(1)], keepdims=0)
    # Every sentence has a token, so 1 does what 1e-9 does in sentence-transformers, and is no 0 in float16.
    count = writer.node("Clip", [writer.node("ReduceSum", [weights, writer.ints(1)], keepdims=0), writer.number(1.0)])
    count = count if mode == "mean_tokens" else writer.node("Sqrt", [count])
    return writer.node("Div", [writer.node("ReduceSum", [kept, writer.ints(1)], keepdims=0), count])


def _width(steps: Sequence[Layer], width: int) -> int:
    """Return the length of the vector, where the transformer's own is `width`."""
    for step in steps:
        if step.kind == "pooling":
            width *= len(step.modes)
        elif step.kind == "dense":
            width = int(step.weight.shape[0])
    return width


class _Writer:
    """Appends nodes and constants to a graph; each gets the name `pooling/<number>`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.count = 0

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = self._name()
        self.graph.node.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = self._name()
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def ints(self, value: int) -> str:
        return self.constant(np.array([value], np.int64))

    def index(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def _name(self) -> str:
        self.count += 1
        return f"pooling/{self.count}"
