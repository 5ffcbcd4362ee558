"""Exporter of Hugging Face folders: transformers loads the model, optimum exports it, transformers runs it again.

What `optimum.exporters.onnx.main_export` does in one call is two here, load and `onnx_export_from_model`, for the sake
of two things that it does not let one choose: eager attention, whose mask is one Mul of floats where that of SDPA is
Where, Expand and Equal over int64, which NPUs and WebGPU refuse; and that weights which a model lacks are an error.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hf_pooling
import hf_preprocessing
import hf_whisper
import numpy as np
import onnx
import torch
from hf_kinds import Kind, kind_of
from onnx import numpy_helper
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager
from protocol import Failed, Request, answer, progress, samples, serve, tools
from safetensors import SafetensorError
from torch.onnx.errors import OnnxExporterError, UnsupportedOperatorError
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig
from transformers.utils import logging

OPSET = 18  # what optimum asks for at least
MASKED = -1e4  # what stands in for the lowest float32: exp of it is 0 as well, and float16 can hold it
HIGHEST_MASK = -1e30
SHOWN_NAMES = 60
DECLARED_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values", "input_features")
MAX_NEW_TOKENS = 224  # half of Whisper's context, as in Whisper itself
DECODER = "decoder"


def export(request: Request) -> None:
    """Write model.onnx, a part "decoder" for Whisper, and what the declared steps need."""
    folder, out = Path(request["path"]), Path(request["out"])
    config, kind = _plan(folder, request["options"]["task"])
    _check_supported(config.model_type, kind)
    progress("loading the model")
    model = load(folder, kind, request["options"]["trust_pickle"])
    progress("exporting to ONNX")
    with torch.no_grad(), _named_operators(model, kind):
        made = (
            _export_whisper(model, folder, out) if kind.kind == "speech-to-text" else _export(model, kind, folder, out)
        )
    packages = tools("torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers", "safetensors")
    answer(request, model="model.onnx", framework=f"transformers {packages['transformers']}", tools=packages, **made)


def run(request: Request) -> None:
    """Write what transformers itself makes of every sample."""
    folder, part = Path(request["path"]), request["part"]
    _, kind = _plan(folder, request["options"]["task"])
    model = load(folder, kind, request["options"]["trust_pickle"])
    steps = hf_pooling.layers(folder) if kind.kind == "sentence-embedding" else ()
    with torch.no_grad():
        for path, feeds in samples(request):
            if kind.kind == "speech-to-text":
                outputs = hf_whisper.run(model, part, feeds)
            else:
                outputs = {kind.output: _run_one(model, kind, steps, feeds)}
            np.savez(path, **outputs)


def _run_one(model: Any, kind: Kind, steps: Any, feeds: dict[str, Any]) -> np.ndarray:
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    made = model(**tensors)
    if kind.kind != "sentence-embedding":
        return np.asarray(getattr(made, kind.output).numpy())
    return hf_pooling.pool(made.last_hidden_state, tensors["attention_mask"], steps).numpy()


def _plan(folder: Path, task: str | None) -> tuple[Any, Kind]:
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = document.get("model_type", "")
    if model_type not in CONFIG_MAPPING:
        raise Failed(
            f"transformers does not know the architecture '{model_type}' of config.json",
            f"export the model to ONNX with its makers' tool; known: {_some(sorted(CONFIG_MAPPING))}",
            "GateFailed",
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Failed(f"config.json cannot be used: {_first_line(exc)}", "copy the folder again") from exc
    return config, kind_of(document, task, (folder / "modules.json").is_file())


def _check_supported(model_type: str, kind: Kind) -> None:
    """Raise Failed where optimum has no exporter for this architecture and task."""
    if not kind.task:
        return
    known = TasksManager._SUPPORTED_MODEL_TYPE
    able = sorted(name for name, entry in known.items() if kind.task in entry.get("onnx", {}))
    name = model_type.replace("_", "-")
    if model_type in able or name in able:
        return
    others = sorted(known.get(name, {}).get("onnx", {}))
    what = f"; of its tasks it knows {', '.join(others)}" if others else ""
    raise Failed(
        f"optimum has no exporter for the architecture '{model_type}' and the task {kind.task}{what}",
        f"export the model to ONNX with its makers' tool; supported: {_some(able)}",
        "GateFailed",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"


def load(folder: Path, kind: Kind, trust_pickle: bool) -> Any:
    """Return the model in float32, with eager attention, every weight of it out of the folder."""
    try:
        model, info = kind.auto.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=None if trust_pickle else True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, EOFError) as exc:
        raise Failed(f"{folder}: the weights cannot be read: {_first_line(exc)}", "copy the folder again") from exc
    except (RuntimeError, ValueError, KeyError, TypeError) as exc:
        raise Failed(
            f"{folder}: weights and config.json do not go together: {_first_line(exc)}",
            "give the folder as it was saved; or another --task",
        ) from exc
    headless = kind.auto.__name__ == "AutoModel"
    missing = [name for name in info["missing_keys"] if not (headless and "pooler" in name)]
    if missing:
        raise Failed(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are not there, such as '{missing[0]}'",
            f"give a folder that was saved for {kind.kind}, or the --task that this one was saved for",
        )
    return model.eval()


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]


def _export(model: Any, kind: Kind, folder: Path, out: Path) -> dict[str, Any]:
    found, warnings = None, []
    if model.main_input_name == "pixel_values":
        found, warnings = hf_preprocessing.pictures(folder)
    steps = hf_pooling.layers(folder) if kind.kind == "sentence-embedding" else ()
    graph = _exported(model, kind, out, {"height": found.height, "width": found.width} if found else {})
    _keep_output(graph, "last_hidden_state" if steps else kind.output)
    if steps:
        hf_pooling.append(graph, steps)
    if found:
        _fix_input(graph, "pixel_values", (None, 3, found.height, found.width))
    _soften_masks(graph)
    onnx.save(graph, out / "model.onnx")
    task, files, more = _declare(model, kind, [value.name for value in graph.graph.input], folder, out)
    images = {"pixel_values": found.rules} if found else {}
    return {"task": task, "images": images, "files": files, "warnings": [*warnings, *more]}


def _declare(
    model: Any, kind: Kind, inputs: list[str], folder: Path, out: Path
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the task, the files that it names, and what cannot be declared."""
    task: dict[str, Any] = {"kind": kind.kind, "output": kind.output}
    files, warnings = [], []
    if "input_ids" in inputs:
        task["text"], more = hf_preprocessing.text(folder, out, inputs, _positions(model.config))
        warnings += more
        files += ["tokenizer.json"] if task["text"] else []
    if model.main_input_name in ("input_values", "input_features"):
        task["audio"], more = hf_preprocessing.sound(folder, inputs[0])
        warnings += more
    if kind.output == "logits":
        task |= hf_preprocessing.labels(model.config, out)
        files.append("labels.json")
    if kind.kind == "sentence-embedding" and not (folder / "modules.json").is_file():
        warnings.append("there is no modules.json: the sentence's vector is the mean over its tokens")
    unknown = sorted(set(inputs) - set(DECLARED_INPUTS))
    warnings += [f"nothing says how the input '{name}' is made: feed it yourself" for name in unknown]
    return {name: value for name, value in task.items() if value is not None}, files, warnings


def _exported(model: Any, kind: Kind, out: Path, sizes: dict[str, int]) -> onnx.ModelProto:
    """Have optimum export the model; returns the graph, whose external weights, if any, lie in `out`."""
    made = out / "optimum"
    onnx_export_from_model(model, made, task=kind.task, opset=OPSET, do_validation=False, **sizes)
    graph = onnx.load(made / "model.onnx", load_external_data=False)
    for file in made.iterdir():
        if file.name.startswith("model.onnx_data"):
            file.rename(out / file.name)
    shutil.rmtree(made)
    return graph


def _positions(config: Any) -> int:
    """Return how many tokens the model takes, 0 where it does not say; some count positions from behind the padding."""
    most = int(getattr(config, "max_position_embeddings", 0) or 0)
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text")
    return most - 2 if shifted and most > 2 else most


def _keep_output(graph: onnx.ModelProto, name: str) -> None:
    kept = [value for value in graph.graph.output if value.name == name]
    if not kept:
        others = ", ".join(value.name for value in graph.graph.output)
        raise Failed(f"the graph has no output '{name}', but {others}", "give another --task", "GateFailed")
    del graph.graph.output[:]
    graph.graph.output.extend(kept)


def _fix_input(graph: onnx.ModelProto, name: str, shape: tuple[int | None, ...]) -> None:
    """Give the input the sizes that are known; None leaves a dimension as it is."""
    value = next(value for value in graph.graph.input if value.name == name)
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if size is not None:
            dim.dim_value = size


def _soften_masks(graph: onnx.ModelProto) -> None:
    """Replace the lowest float32, which masks what attention must not see and is infinite in float16, by -10000."""
    constants = [node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant" and node.attribute]
    for tensor in (*constants, *graph.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.external_data or len(tensor.raw_data) > 4096:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size and array.min() < HIGHEST_MASK:
            tensor.CopyFrom(
                numpy_helper.from_array(np.where(array < HIGHEST_MASK, np.float32(MASKED), array), tensor.name)
            )


def _export_whisper(model: Any, folder: Path, out: Path) -> dict[str, Any]:
    hf_whisper.export(model, out / "model.onnx", out / f"{DECODER}.onnx")
    config = _generation_config(model, folder)
    text, warnings = hf_preprocessing.text(folder, out, (), model.config.max_target_positions)
    audio, more = hf_preprocessing.sound(folder, "input_features")
    if text is None or audio is None:
        raise Failed("; ".join((*warnings, *more)), "give a folder with tokenizer.json and preprocessor_config.json")
    prompt, told = _prompt(config)
    cross, past, present = (hf_whisper.names(model, prefix) for prefix in ("cross", "past", "present"))
    end = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    generate = {
        "decoder": DECODER,
        "ids": "input_ids",
        "logits": "logits",
        "prompt": prompt,
        "end": end,
        "max_tokens": min(MAX_NEW_TOKENS + len(prompt), model.config.max_target_positions),
        "cross": {name: name for name in cross},
        "cache": dict(zip(past, present, strict=True)),
        "suppress": list(config.suppress_tokens or ()),
        "suppress_first": list(config.begin_suppress_tokens or ()),
    }
    text = {**text, "ids": ""}
    task = {"kind": "speech-to-text", "output": cross[0], "text": text, "audio": audio, "generate": generate}
    return {
        "task": task,
        "parts": {DECODER: f"{DECODER}.onnx"},
        "files": ["tokenizer.json"],
        "warnings": [*warnings, *more, *told],
    }


def _generation_config(model: Any, folder: Path) -> GenerationConfig:
    if not (folder / "generation_config.json").is_file():
        raise Failed(f"{folder}: there is no generation_config.json", "copy it from where the model comes from")
    return model.generation_config


def _prompt(config: GenerationConfig) -> tuple[list[int], list[str]]:
    """Return the tokens an answer begins with: English for a model of many languages, transcribed, without times."""
    start, warnings = [config.decoder_start_token_id], []
    if getattr(config, "is_multilingual", False):
        start += [config.lang_to_id["<|en|>"], config.task_to_id["transcribe"]]
        warnings.append("this model knows many languages; the bundle's prompt asks it to transcribe English")
    return [*start, config.no_timestamps_token_id], warnings


@contextmanager
def _named_operators(model: Any, kind: Kind) -> Iterator[None]:
    """Turn the exporter's own errors into Failed; of an unknown operator it says the name, and not in which layer."""
    try:
        yield
    except UnsupportedOperatorError as exc:
        operator = str(exc).partition("'")[2].partition("'")[0]
        layer = _layer_of(model, kind, operator)
        raise Failed(
            f"the exporter does not know the operator '{operator}' of the layer '{layer}'",
            "replace the operator in the model, or export it to ONNX with another tool",
            "GateFailed",
        ) from exc
    except (OnnxExporterError, NotImplementedError) as exc:
        raise Failed(f"the export failed: {_first_line(exc)}", "try another --task", "GateFailed") from exc


def _layer_of(model: Any, kind: Kind, operator: str) -> str:
    """Return the name of the first layer that calls `operator` (such as aten::expm1), by running the model once."""
    inside: list[str] = []
    found: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name().partition(".")[0] == operator and inside and not found:
                found.append(inside[-1])
            return func(*args, **(kwargs or {}))

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    rules = TasksManager.get_exporter_config_constructor("onnx", model, task=kind.task, library_name="transformers")
    with Watch(), torch.no_grad():
        model(**rules(model.config).generate_dummy_inputs(framework="pt"))
    for hook in hooks:
        hook.remove()
    return found[0] if found else "unknown"


if __name__ == "__main__":
    logging.set_verbosity_error()
    serve(export=export, run=run)
