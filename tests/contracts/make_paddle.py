"""Write PaddlePaddle models into the folder that is named: `python make_paddle.py FOLDER`, as `.json` programs."""

import sys
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec


class Net(nn.Layer):
    """Convolution, batch norm, an interpolation by a factor and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3)
        self.norm = nn.BatchNorm2D(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [N, 5]."""
        hidden = nn.functional.relu(self.norm(self.conv(x)))
        larger = nn.functional.interpolate(hidden, scale_factor=1.7, mode="nearest")
        return nn.functional.softmax(self.linear(larger.mean([2, 3])))


class Unknown(nn.Layer):
    """The logarithm of the gamma function, which paddle2onnx does not know, after a layer that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [N, 8]."""
        return paddle.lgamma(self.linear(x))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    paddle.seed(0)
    for name, net, shape in (("net", Net(), [None, 3, 16, 16]), ("unknown", Unknown(), [None, 8])):
        net.eval()
        paddle.jit.save(net, str(folder / name), input_spec=[InputSpec(shape, "float32", "x")])
