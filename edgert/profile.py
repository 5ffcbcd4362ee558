"""Device profiles: what one class of device wants from a model, read strictly from TOML.

A profile is data; what to do with it is left to `converters` (number formats, shapes) and `edgert.runtime`
(providers).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import BadInput, UsageError, nearest
from edgert.host import ISA, HostFacts
from edgert.strict_toml import Table, loads

SCHEMA_VERSION = 1
KINDS = ("phone", "pc", "iot")
PROCESSORS = ("npu", "gpu", "cpu")
ARCHES = ("arm64", "x86_64")
SYSTEMS = ("android", "linux", "windows", "macos")
SHAPES = ("static", "dynamic")
PRECISIONS = ("int8", "w8a16", "fp16", "fp32", "int4", "w8")
PROVIDERS = (
    *(
        "QNNExecutionProvider",
        "OpenVINOExecutionProvider",
        "VitisAIExecutionProvider",
        "CoreMLExecutionProvider",
    ),
    *(
        "NnapiExecutionProvider",
        "XnnpackExecutionProvider",
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
    ),
    *("NvTensorRTRTXExecutionProvider", "DmlExecutionProvider", "MIGraphXExecutionProvider"),
    *("WebGpuExecutionProvider", "CANNExecutionProvider", "VSINPUExecutionProvider", "CPUExecutionProvider"),
)
FIGURES = (
    *("bandwidth_gbps", "memory_gb", "int8_tops", "fp16_tflops", "tdp_w", "vtcm_mb"),
    *("cpu_cores", "cpu_ghz", "gpu_cores"),
)


@dataclass(frozen=True)
class Figure:
    """One number about a device and where it is from.

    The unit is in the figure's name: `bandwidth_gbps` is 10^9 bytes a second, `memory_gb` 10^9 bytes.
    """

    value: float
    source: str


@dataclass(frozen=True)
class ProviderChoice:
    """One execution provider of a device, and what it is given.

    `name` is ONNX Runtime's (`QNNExecutionProvider`); `precisions` are words of `--precision`, best first.
    `options` are for the device; `emulator_options` replace them where the provider only emulates the
    processor on a workstation (the same as `options` when the profile says nothing); `precision_options`
    are added to either for a variant of that precision. A profile never holds the path of a library: the
    runtime knows where a plug-in is installed.
    """

    name: str
    processor: str
    precisions: tuple[str, ...]
    options: Mapping[str, str]
    emulator_options: Mapping[str, str]
    precision_options: Mapping[str, Mapping[str, str]]

    def options_for(self, precision: str, *, emulated: bool = False) -> dict[str, str]:
        """Return the provider options for a variant of `precision`, a word of `--precision`."""
        chosen = self.emulator_options if emulated else self.options
        return {**chosen, **self.precision_options.get(precision, {})}


@dataclass(frozen=True)
class Quantization:
    """What integers the device wants.

    `activation` and `weight` are "uint8" or "int8". `weight_symmetric` puts the zero point of weights at 0
    (int8) or 128 (uint8), `activation_symmetric` that of activations. `per_channel` names the op types
    whose weights may have one scale per output channel, () means per tensor. `reduce_range` keeps int8
    weights within -64..64, for processors whose 16-bit sums saturate. `quantize_ops` names the op types
    that get Q/DQ around them; ("*",) is every op.
    """

    activation: str
    weight: str
    per_channel: tuple[str, ...]
    weight_symmetric: bool
    activation_symmetric: bool
    reduce_range: bool
    quantize_ops: tuple[str, ...]

    @property
    def variant_class(self) -> str:
        """The variant class of 8-bit activations and weights, such as `qdq-u8s8`."""
        short = {"uint8": "u8", "int8": "s8"}
        return f"qdq-{short[self.activation]}{short[self.weight]}"

    def quantizes(self, op_type: str) -> bool:
        """Return whether nodes of `op_type` get Q/DQ around them."""
        return self.quantize_ops == ("*",) or op_type in self.quantize_ops


@dataclass(frozen=True)
class DeviceProfile:
    """One class of device.

    `providers` is in order of preference and ends with the CPU; `processor` is that of the first. `isa`
    lists what every core of the class has. `shapes` is "static" where the accelerator takes nothing else.
    `opset` is the ai.onnx version that an older model is raised to.
    """

    schema_version: int
    id: str
    name: str
    kind: str
    processor: str
    arch: str
    isa: tuple[str, ...]
    os: tuple[str, ...]
    shapes: str
    opset: int
    providers: tuple[ProviderChoice, ...]
    quantization: Quantization
    figures: Mapping[str, Figure]
    notes: tuple[str, ...]
    sources: tuple[str, ...]

    def variant_class(self, precision: str) -> str:
        """Return the variant class that a word of `--precision` means here: int8 may be qdq-u8s8."""
        classes = {"int8": self.quantization.variant_class, "w8a16": "qdq-a16w8", "int4": "w4"}
        return classes.get(precision, precision)


def load_profile(name: str) -> DeviceProfile:
    """Read a profile by name, or from a path that ends in `.toml`.

    UsageError on an unknown name, which tells the nearest; BadInput on a file that is not a profile.
    """
    if name.endswith(".toml"):
        return parse_profile(_read_text(Path(name)), name)
    known = list_profiles()
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean '{near}'? " if near else ""
        raise UsageError(
            f"there is no device profile '{name}'",
            f"{hint}known profiles: {', '.join(known)}; or give the path of a .toml",
        )
    path = profiles_folder() / f"{name}.toml"
    profile = parse_profile(_read_text(path), str(path))
    if profile.id != name:
        raise BadInput(f"{path}: id is '{profile.id}', the file's name is '{name}'", "make the two the same")
    return profile


def list_profiles() -> tuple[str, ...]:
    """Return the names of the packaged profiles, sorted."""
    return tuple(sorted(path.stem for path in profiles_folder().glob("*.toml")))


def profiles_folder() -> Path:
    """Return the folder of the packaged profiles: beside this package, in a checkout and in a wheel alike."""
    return Path(__file__).resolve().parent.parent / "device_profiles"


def detect_profile(host: HostFacts) -> str:
    """Return the name of the profile that fits this machine's CPU.

    UsageError, with what was seen, when none does.
    """
    if host.arch == "x86_64":
        for word, name in (("avx512_vnni", "x86-avx512-vnni"), ("avx2", "x86-avx2")):
            if word in host.isa:
                return name
    if host.arch == "arm64" and host.system in ("linux", "android"):
        boards = ("Raspberry Pi 5", "Raspberry Pi Compute Module 5")
        return "raspberry-pi-5" if host.cpu_name.startswith(boards) else "android-arm64-generic"
    cpu = f"{host.cpu_name or 'unnamed CPU'}, isa {' '.join(host.isa) or 'unknown'}"
    raise UsageError(
        f"no device profile fits this machine: {host.system}, {host.arch}, {cpu}",
        "name one with -p; `edgert profiles list` shows all",
    )


def is_of_class(profile: DeviceProfile, host: HostFacts) -> bool:
    """Say whether times of this machine's CPU are those of a profile's class.

    They are not where the profile that fits this machine best has instruction sets which `profile` lacks: with VNNI,
    integers take a fraction of what they do without. A profile that names no instruction set means any.
    """
    try:
        best = load_profile(detect_profile(host))
    except UsageError:
        return True
    return not profile.isa or set(best.isa) <= set(profile.isa)


def parse_profile(text: str, where: str) -> DeviceProfile:
    """Parse the TOML of a profile; `where` names the file in errors.

    BadInput names the key and, for an unknown key or word, the nearest known one.
    """
    top = loads(text, where)
    top.allow(tuple(DeviceProfile.__dataclass_fields__), required=_REQUIRED)
    profile = DeviceProfile(
        schema_version=top.integer("schema_version", SCHEMA_VERSION, SCHEMA_VERSION),
        id=top.matching("id", _ID),
        name=top.text("name"),
        kind=top.word("kind", KINDS),
        processor=top.word("processor", PROCESSORS),
        arch=top.word("arch", ARCHES),
        isa=top.words("isa", ISA),
        os=top.words("os", SYSTEMS),
        shapes=top.word("shapes", SHAPES),
        opset=top.integer("opset", 13, 25),
        providers=tuple(_provider(table) for table in top.tables("providers")),
        quantization=_quantization(top.table("quantization")),
        figures=_figures(top.table("figures")),
        notes=top.texts("notes"),
        sources=top.texts("sources"),
    )
    _check_together(profile, top)
    return profile


_REQUIRED = tuple(key for key in DeviceProfile.__dataclass_fields__ if key not in ("figures", "notes"))
_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
_OP_TYPE = re.compile(r"[A-Z][A-Za-z0-9]*")


def _provider(table: Table) -> ProviderChoice:
    table.allow(tuple(ProviderChoice.__dataclass_fields__), required=("name", "processor", "precisions"))
    precisions = table.words("precisions", PRECISIONS)
    options = table.table("options").all_texts()
    emulator_options = table.table("emulator_options").all_texts()
    by_precision = table.table("precision_options")
    by_precision.allow(precisions)
    return ProviderChoice(
        name=table.word("name", PROVIDERS),
        processor=table.word("processor", PROCESSORS),
        precisions=precisions,
        options=options,
        emulator_options=emulator_options if table.has("emulator_options") else options,
        precision_options={key: by_precision.table(key).all_texts() for key in by_precision.names()},
    )


def _quantization(table: Table) -> Quantization:
    fields = tuple(Quantization.__dataclass_fields__)
    table.allow(fields, required=fields)
    result = Quantization(
        activation=table.word("activation", ("uint8", "int8")),
        weight=table.word("weight", ("int8", "uint8")),
        per_channel=_op_types(table, "per_channel"),
        weight_symmetric=table.flag("weight_symmetric"),
        activation_symmetric=table.flag("activation_symmetric"),
        reduce_range=table.flag("reduce_range"),
        quantize_ops=("*",) if table.texts("quantize_ops") == ("*",) else _op_types(table, "quantize_ops"),
    )
    if result.reduce_range and result.weight != "int8":
        problem = "is true, which only int8 weights can have"
        raise table.error("reduce_range", problem, "change it or weight")
    if result.activation == "int8" and result.weight == "uint8":
        problem = "is 'uint8', but a signed activation needs a signed weight"
        raise table.error("weight", problem, "change it or activation")
    return result


def _op_types(table: Table, key: str) -> tuple[str, ...]:
    return table.texts_matching(key, _OP_TYPE, 'op types of ONNX (or only "*" in quantize_ops)')


def _figures(table: Table) -> dict[str, Figure]:
    table.allow(FIGURES)
    return {name: _figure(table.table(name)) for name in table.names()}


def _figure(table: Table) -> Figure:
    table.allow(("value", "source"), required=("value", "source"))
    return Figure(table.positive("value"), table.text("source"))


def _check_together(profile: DeviceProfile, top: Table) -> None:
    """Refuse a profile whose parts contradict each other."""
    names = [provider.name for provider in profile.providers]
    if not names:
        raise top.error("providers", "is empty", "add at least the CPUExecutionProvider")
    if len(set(names)) != len(names):
        raise top.error("providers", f"names one provider twice: {', '.join(names)}", "keep one of them")
    last = profile.providers[-1]
    if last.name != "CPUExecutionProvider" or "fp32" not in last.precisions:
        problem = "does not end with the CPUExecutionProvider and fp32, which every device can fall back to"
        raise top.error("providers", problem, "add it as the last one")
    first = profile.providers[0].processor
    if profile.processor != first:
        problem = f"is '{profile.processor}', but the first provider runs on the {first}"
        raise top.error("processor", problem, "make the two the same")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"cannot read the profile {path}: {exc}", "give the path of a TOML file") from exc
