"""What several passes know of ONNX Runtime's blocked layout (NCHWc), which its convolutions have on x86 CPUs.

Values between convolutions are kept in blocks of channels: 16 with AVX-512, 8 with AVX2. An operator that does not
know the layout costs a change of it before and after itself, and a convolution whose output channels do not fill whole
blocks computes zeros in the rest. Read in core/optimizer/nchwc_transformer.cc and core/mlas/lib/snchwc.cpp there.
"""

import onnx_ir as ir

from converters.passes.matching import attribute_int, attribute_ints, constant, producer
from edgert.profile import DeviceProfile

BLOCK = 16
"""Channels that fill whole blocks with AVX-512 and with AVX2: a depthwise Conv of other numbers is not blocked."""

BLOCKED = (
    "Conv",
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "Clip",
    "LeakyRelu",
    "Mul",
    "Add",
    "MaxPool",
    "AveragePool",
)
"""Operators that keep the layout of what they read, and Conv, which makes it."""

_MAX_NODES = 64
"""How many operators behind convolutions are followed; a chain of residual sums ends at the next Conv of each."""


def has_blocked_layout(profile: DeviceProfile) -> bool:
    """Whether the processor that the graph is for computes convolutions in this layout.

    Not for a GPU's profile, whose CPU reads the file that the GPU reads.
    """
    return profile.processor == "cpu" and profile.arch == "x86_64" and profile.providers[0].processor != "gpu"


def block_of(profile: DeviceProfile) -> int:
    """Return the channels in a block on the profile's processor."""
    return BLOCK if "avx512f" in profile.isa else BLOCK // 2


def is_blocked(value: ir.Value) -> bool:
    """Whether the value comes from convolutions alone, through nothing but operators that keep the layout."""
    waiting, seen = [value], set[ir.Value]()
    while waiting and len(seen) < _MAX_NODES:
        current = waiting.pop()
        node = producer(current, *BLOCKED)
        seen.add(current)
        if node is None:
            return False
        if node.op_type != "Conv":
            variable = [source for source in node.inputs if source is not None and constant(source) is None]
            waiting += [source for source in variable if source not in seen]
    return not waiting


def is_plain_conv(node: ir.Node) -> bool:
    """Whether a Conv has one group, no dilation and its padding written as numbers."""
    auto_pad = node.attributes.get("auto_pad")
    return (
        attribute_int(node, "group", 1) == 1
        and all(step == 1 for step in attribute_ints(node, "dilations"))
        and (auto_pad is None or auto_pad.as_string() in ("NOTSET", "VALID"))
    )
