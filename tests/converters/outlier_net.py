"""A net that int8 ruins at one place: one channel of one activation is a thousand times the others.

The Sigmoid behind it knows no scale, so equalisation cannot help.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from tests.converters.quantize.nets import Array, net, normal

SHAPE = (1, 3, 24, 24)
LAYERS = 6


def outlier_net() -> ir.Model:
    """Return 3x3 convolutions with gates; what follows the first one divides its huge channel by as much."""
    loud = np.ones(8, np.float32)
    loud[0] = 1000.0
    weights: dict[str, Array] = {
        "w0": normal(8, 3, 3, 3) * loud[:, None, None, None] / 5,
        "w1": normal(8, 8, 3, 3, seed=1) / loud[None, :, None, None] / 6,
    }
    weights |= {f"w{number}": normal(8, 8, 3, 3, seed=number) / 6 for number in range(2, LAYERS)}
    body = ["a0 = Conv <pads = [1,1,1,1]> (x, w0)", "h0 = Sigmoid (a0)"]
    body += ["s0 = Mul (a0, h0)"]
    for number in range(1, LAYERS):
        body += [f"a{number} = Conv <pads = [1,1,1,1]> (s{number - 1}, w{number})"]
        body += [f"h{number} = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a{number})"]
        body += [f"s{number} = Mul (a{number}, h{number})"]
    body += [f"y = GlobalAveragePool (s{LAYERS - 1})"]
    return net("\n".join(body), "float[1,3,24,24] x", "float[1,8,1,1] y", weights)


def save_outlier_net(folder: Path) -> tuple[Path, Path]:
    """Write the net and a folder of samples; returns both paths."""
    model, samples = folder / "outlier.onnx", folder / "samples"
    ir.save(outlier_net(), model)
    samples.mkdir()
    for number in range(8):
        np.savez(samples / f"{number}.npz", x=normal(*SHAPE, seed=50 + number))
    return model, samples
