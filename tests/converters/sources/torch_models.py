"""Small PyTorch models for the tests: `python torch_models.py FOLDER` writes their files, with a Python that has torch.

The functions without arguments are factories, which the tests name as `tests.converters.sources.torch_models:NAME`.
"""

import dataclasses
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

MARK = "TORCH_TEST_MARK"
"""The environment variable that names the file a hostile model writes."""


class Net(nn.Module):
    """A convolution with a dict as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.conv(x).relu().mean((2, 3))
        return {"logits": self.fc(hidden), "features": hidden}


def net():
    """Return a module alone."""
    return Net()


def net_with_example():
    """Return a module and its example input."""
    return Net(), (torch.zeros(1, 3, 8, 8),)


@dataclasses.dataclass
class Encoded:
    """An output of named fields."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class Encoder(nn.Module):
    """Integers, a number with a default, an optional argument, a keyword, a dataclass as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids, scale: float = 2.0, extra=None, *, mask):
        tokens = self.embed(ids) * mask.unsqueeze(-1) * scale
        return Encoded(tokens, tokens.sum(1))


def encoder():
    """Return a module whose example inputs are keyword arguments."""
    torch.manual_seed(0)
    return Encoder(), {"ids": torch.zeros(1, 5, dtype=torch.int64), "mask": torch.ones(1, 5)}


class Branch(nn.Module):
    """A branch on the value of a tensor."""

    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def branching():
    """Return a module that torch.export cannot follow."""
    return nn.Sequential(Branch()), torch.ones(3)


class Flat(nn.Module):
    """A reshape that fixes the batch."""

    def forward(self, x):
        return x.reshape(2, 12)


def flat():
    """Return a module whose first dimension cannot be free."""
    return Flat(), torch.ones(2, 3, 4)


@torch.library.custom_op("edgert_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    """An operator that no exporter knows."""
    return x * 2


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


class Mystery(nn.Module):
    """The layer that holds it."""

    def forward(self, x):
        return torch.ops.edgert_tests.mystery(x)


def mysterious():
    """Return a module with the unknown operator in layer `1`."""
    return nn.Sequential(nn.Linear(4, 4), Mystery()), torch.ones(2, 4)


def large():
    """Return 80 MB of weights, which lie in a file beside the ONNX file."""
    torch.manual_seed(0)
    return nn.Linear(5000, 4000), torch.zeros(1, 5000)


def raises():
    """Raise, as a factory with a mistake does."""
    raise ValueError("no such checkpoint")


class Scaled(nn.Module):
    """TorchScript with numbers among its arguments."""

    def forward(self, x: torch.Tensor, times: int, more: int = 3):
        return x * times + more


class Eigen(nn.Module):
    """An operator that the TorchScript exporter does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigh(x)[0]


class Writer(nn.Module):
    """TorchScript that writes a file when it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written")
        return x


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch "${MARK}"',)


def _change(source: Path, target: Path, record: str, change: Callable[[bytes], bytes]) -> None:
    """Copy a zip archive with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.partition("/")[2] == record else data)


def _swap(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode())

    return change


def _pickled(_: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save(((Hostile(),), {}), buffer)
    return buffer.getvalue()


def write(folder: Path) -> None:
    """Write every file that the tests read."""
    torch.manual_seed(0)
    module = Net().eval()
    torch.save(module.state_dict(), folder / "weights.pth")
    torch.save(module.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    wrapped = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, folder / "checkpoint.pt")
    torch.save(module, folder / "whole.pt")
    torch.save({"weights": Hostile()}, folder / "hostile.pth")
    program = torch.export.export(
        module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
    )
    torch.export.save(program, folder / "net.pt2")
    torch.export.save(torch.export.export(mysterious()[0], (torch.ones(2, 4),)), folder / "mystery.pt2")
    torch.jit.script(Scaled()).save(folder / "scaled.jit")
    torch.jit.script(nn.Sequential(nn.Linear(4, 4), Eigen())).save(folder / "eigen.jit")
    torch.jit.script(Writer()).save(folder / "writer.jit")
    model, symbol = "models/model.json", "Symbol('s77', positive=True, integer=True)"
    _change(folder / "net.pt2", folder / "hostile-inputs.pt2", "data/sample_inputs/model.pt", _pickled)
    code = json.dumps(f"__import__('os').system('touch \"${MARK}\"')")[1:-1]
    _change(folder / "net.pt2", folder / "hostile-size.pt2", model, _swap(symbol, code))
    _change(
        folder / "net.pt2",
        folder / "hostile-target.pt2",
        model,
        _swap("torch.ops.aten.relu.default", "torch.os.system"),
    )
    _change(folder / "net.pt2", folder / "hostile-name.pt2", model, _swap('"name": "x"', '"name": "x=print(1)"'))
    _change(
        folder / "net.pt2",
        folder / "hostile-weights.pt2",
        "data/weights/model_weights_config.json",
        _swap('"use_pickle": false', '"use_pickle": true'),
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
