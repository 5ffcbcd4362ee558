"""A net that 8-bit activations ruin at one place and 16-bit ones do not: an offset of thousands that comes and goes."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from tests.converters.quantize.nets import Array, net, normal

LAYERS = 6


def wide_net() -> ir.Model:
    """Return 3x3 convolutions; between the first two, one channel is lifted by 2000, bent, and lowered again."""
    offset = np.zeros((1, 8, 1, 1), np.float32)
    offset[0, 3] = 2000.0
    weights: dict[str, Array] = {"offset": offset, "w0": normal(8, 3, 3, 3) / 5}
    weights |= {f"w{number}": normal(8, 8, 3, 3, seed=number) / 6 for number in range(1, LAYERS)}
    body = """
    a0 = Conv <pads = [1,1,1,1]> (x, w0)
    lifted = Add (a0, offset)
    bent = LeakyRelu <alpha = 0.5> (lifted)
    s0 = Sub (bent, offset)
    """
    for number in range(1, LAYERS):
        body += f"a{number} = Conv <pads = [1,1,1,1]> (s{number - 1}, w{number}) s{number} = Relu (a{number})\n"
    body += f"y = GlobalAveragePool (s{LAYERS - 1})"
    return net(body, "float[1,3,24,24] x", "float[1,8,1,1] y", weights)


def save_wide_net(folder: Path) -> tuple[Path, Path]:
    """Write the net and a folder of samples; returns both paths."""
    model, samples = folder / "wide.onnx", folder / "samples"
    ir.save(wide_net(), model)
    samples.mkdir()
    for number in range(4):
        np.savez(samples / f"{number}.npz", x=normal(1, 3, 24, 24, seed=50 + number))
    return model, samples
