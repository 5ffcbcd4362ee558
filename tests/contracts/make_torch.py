"""Write PyTorch models into the folder that is named: `python make_torch.py FOLDER`, with a Python that has torch."""

import sys
from pathlib import Path

import torch
from torch import nn


class Unknown(nn.Module):
    """A Bessel function, which ONNX has no operator for, inside the submodule `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.head = Bessel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, 8]."""
        return self.head(self.encoder(x))


class Bessel(nn.Module):
    """The Bessel function of the first kind, of order 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the shape of `x`."""
        return torch.special.bessel_j0(x)


if __name__ == "__main__":
    torch.manual_seed(0)
    program = torch.export.export(Unknown().eval(), (torch.zeros(2, 8),))
    torch.export.save(program, Path(sys.argv[1]) / "unknown.pt2")
