"""The residual networks for small images that distillation papers compare on."""

import functools

from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs

_DEPTHS = tuple(range(8, 111, 6))
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(channels: int, size: int, stride: int, name: str) -> nn.Conv:
    # Explicit padding, not "SAME": with stride 2 that pads one side only and shifts
    # the image by a pixel against the published networks.
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=_he_normal,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Where channels or resolution change, the shortcut is a 1x1 convolution (option B of
    He et al. 2015, https://arxiv.org/abs/1512.03385). The ReLU after the sum is the
    caller's, because some losses match what stands before it.

    Args:
      channels: number of output channels.
      stride: 2 halves height and width.
    """

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Map `[batch, height, width, any]` to `[batch, ..., channels]`."""
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        x = _conv(self.channels, 3, self.stride, "conv1")(inputs)
        x = nn.relu(norm(name="norm1")(x))
        x = _conv(self.channels, 3, 1, "conv2")(x)
        x = norm(name="norm2")(x)
        shortcut = inputs
        if shortcut.shape != x.shape:
            shortcut = _conv(self.channels, 1, self.stride, "shortcut")(shortcut)
            shortcut = norm(name="shortcut_norm")(shortcut)
        return x + shortcut


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n + 2: a stem and three stages of n basic blocks.

    `ResNet(100, 32, width=4)` is the resnet32x4 and `ResNet(100, 8, width=4)` the
    resnet8x4 of the distillation literature; `width=1` gives resnet20, resnet56, ...

    Args:
      classes: number of logits.
      depth: 8, 14, 20, ..., 110.
      width: the stages have 16, 32 and 64 times `width` channels, the stem
        `max(16, 8 * width)`.

    Call:
      `[batch, height, width, channels]` floating inputs and `train` give logits
      `[batch, classes]` and the features `stem`, `stage1`, `stage2`, `stage3` (maps
      after the ReLU, the last two at a half and a quarter of the resolution),
      `stage1_preact`, ... (before it), `pooled` `[batch, 64 * width]` and
      `class_maps` `[batch, ..., classes]`, the head at every place of the last map.

    Raises:
      ValueError: if the depth is not one of those, a size is not positive, or the
        inputs are not a floating batch of images.

    Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition",
    https://arxiv.org/abs/1512.03385 (2015); the widened ones: Tian, Krishnan and Isola,
    "Contrastive Representation Distillation", https://arxiv.org/abs/1910.10699 (2020).

    >>> import jax
    >>> init = ResNet(classes=10, depth=8).init_with_output
    >>> images = jax.numpy.ones((2, 8, 8, 1))
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), images)
    >>> outputs.logits.shape, outputs.features["stage2"].shape
    ((2, 10), (2, 4, 4, 32))
    """

    classes: int
    depth: int
    width: int = 1

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("ResNet", classes=self.classes, width=self.width)
        if self.depth not in _DEPTHS:
            depths = ", ".join(map(str, _DEPTHS))
            raise ValueError(
                f"ResNet: depth must be 6n + 2, one of {depths}; got {self.depth}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits and the map after every stage."""
        checks.floating("ResNet", inputs=inputs)
        if inputs.ndim != 4:
            raise ValueError(
                "ResNet: inputs must be [batch, height, width, channels], "
                f"got {list(inputs.shape)}"
            )
        x = _conv(max(16, 8 * self.width), 3, 1, "stem")(inputs)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm"
        )(x)
        x = nn.relu(x)
        features = {"stem": x}
        for stage in (1, 2, 3):
            channels = self.width * 8 * 2**stage
            for number in range((self.depth - 2) // 6):
                stride = 2 if stage > 1 and number == 0 else 1
                block = BasicBlock(channels, stride, name=f"stage{stage}_block{number}")
                before = block(x, train)
                x = nn.relu(before)
            features[f"stage{stage}_preact"] = before
            features[f"stage{stage}"] = x
        features["pooled"] = pooled = x.mean(axis=(1, 2))
        head = nn.Dense(self.classes, name="head")
        logits = head(pooled)
        features["class_maps"] = head(x)  # their mean over space is the logits
        return Outputs(logits, features)
