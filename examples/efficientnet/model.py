"""EfficientNet-Lite0 for PyTorch, whose state_dict has the names of the package efficientnet-lite-pytorch 0.1.0.

A chain of inverted residual blocks with ReLU6 and without squeeze-and-excitation, made for phones and microcontrollers.
Input: float32 [N, 3, 224, 224], red first, `(pixel - 127) / 128`. Output: [N, 1000], the logits of ImageNet's classes.
Source: EfficientNet (arXiv:1905.11946), table 1, and its Lite variant in TensorFlow's TPU models.
"""

import torch
from torch import nn
from torch.nn import functional

BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel, stride of the first, expansion, channels."""


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME" does: the odd pixel goes to the right and the bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, C, ceil(H / stride), ceil(W / stride)]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        if height or width:
            x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation with the epsilon of the paper's code."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand, filter each channel, project; add the input where the shape stays."""

    def __init__(self, channels: int, kernel: int, stride: int, expand: int, out: int) -> None:
        super().__init__()
        wide = channels * expand
        if expand > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = norm(out)
        self.expands, self.adds = expand > 1, stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, out, H / stride, W / stride]."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The whole classifier; 4.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        self._blocks = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expand, out in BLOCKS:
            for number in range(repeats):
                self._blocks.append(Block(channels, kernel, 1 if number else stride, expand, out))
                channels = out
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of [N, 3, H, W]."""
        x = functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return {"logits": self._fc(x.mean((2, 3)))}


def build() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return the module, without trained weights, and example inputs: what `--factory` asks for."""
    return EfficientNetLite0(), {"image": torch.zeros(1, 3, 224, 224)}
