"""The residual networks for small images that distillation papers compare on."""

import functools
from collections.abc import Iterator, Mapping

from flax import core
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._narrow import Narrowable
from kdjax.units import Place, Units

_DEPTHS = tuple(range(8, 111, 6))
_AFFINE, _MOMENTS = ("scale", "bias"), ("mean", "var")
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


def _norm_of(conv: str) -> str:
    return conv.replace("conv", "norm") if "conv" in conv else f"{conv}_norm"


def _channels(size: int, makers: list[str], readers: list[str]) -> Units:
    """Return the output channels of convolutions and of the norm behind each."""
    norms = [_norm_of(conv) for conv in makers]
    return Units(
        size,
        silenced=(
            *(Place(f"params/{conv}/kernel", 3) for conv in makers),
            *(Place(f"params/{norm}/{x}", 0) for norm in norms for x in _AFFINE),
        ),
        indexed=(
            *(Place(f"batch_stats/{norm}/{x}", 0) for norm in norms for x in _MOMENTS),
            # along the input channels of a convolution, or the rows of the head
            *(Place(f"params/{x}/kernel", 0 if x == "head" else 2) for x in readers),
        ),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    The ReLU after the sum is the caller's, because some losses match what stands
    before it.

    Args:
      channels: number of output channels.
      inner: number of channels between the two convolutions.
      stride: 2 halves height and width.
      project: whether the shortcut is a 1x1 convolution, for blocks that change
        channels or resolution (option B of He et al. 2015,
        https://arxiv.org/abs/1512.03385).
    """

    channels: int
    inner: int
    stride: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Map `[batch, height, width, any]` to `[batch, ..., channels]`."""
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        x = _conv(self.inner, 3, self.stride, "conv1")(inputs)
        x = nn.relu(norm(name="norm1")(x))
        x = _conv(self.channels, 3, 1, "conv2")(x)
        x = norm(name="norm2")(x)
        shortcut = inputs
        if self.project:
            shortcut = _conv(self.channels, 1, self.stride, "shortcut")(shortcut)
            shortcut = norm(name="shortcut_norm")(shortcut)
        return x + shortcut


class ResNet(Narrowable, nn.Module):
    """The CIFAR ResNet of depth 6n + 2: a stem and three stages of n basic blocks.

    `ResNet(100, 32, width=4)` is the resnet32x4 and `ResNet(100, 8, width=4)` the
    resnet8x4 of the distillation literature; `width=1` gives resnet20, resnet56, ...

    Args:
      classes: number of logits.
      depth: 8, 14, 20, ..., 110.
      width: the stages have 16, 32 and 64 times `width` channels, the stem
        `max(16, 8 * width)`.
      sizes: how many channels a part has, by the name in `units`, where they are not
        those: what is left of a pruned one (`narrowed`).

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
    sizes: Mapping[str, int] = core.FrozenDict()

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("ResNet", classes=self.classes, width=self.width)
        if self.depth not in _DEPTHS:
            depths = ", ".join(map(str, _DEPTHS))
            raise ValueError(
                f"ResNet: depth must be 6n + 2, one of {depths}; got {self.depth}"
            )
        super().__post_init__()

    @property
    def _blocks(self) -> int:
        return (self.depth - 2) // 6

    def _projects(self, stage: int) -> bool:
        """Whether a stage's channels are other ones than those that enter it."""
        return stage > 1 or self.width > 1

    def _channels(self, stage: int) -> int:
        return self.sizes.get(f"stage{stage}", self.width * 8 * 2**stage)

    def _inner(self, stage: int, number: int) -> int:
        whole = self.width * 8 * 2**stage
        return self.sizes.get(f"stage{stage}_block{number}", whole)

    @property
    def _stem(self) -> int:
        shared = not self._projects(1)
        whole = max(16, 8 * self.width)
        return self._channels(1) if shared else self.sizes.get("stem", whole)

    def units(self) -> dict[str, Units]:
        """Return the channels that can be pruned, by name.

        `stage1_block0` and so on are those between the two convolutions of a block.
        `stage1`, `stage2` and `stage3` are those that a stage's blocks add to, one
        channel of all of them together; the stem's belong to `stage1` where nothing
        stands between, else they are `stem`.
        """
        found = {}
        if self._projects(1):
            found["stem"] = _channels(self._stem, ["stem"], [*self._entered(1)])
        for stage in (1, 2, 3):
            blocks = [f"stage{stage}_block{n}" for n in range(self._blocks)]
            for number, block in enumerate(blocks):
                size, made = self._inner(stage, number), [f"{block}/conv1"]
                found[block] = _channels(size, made, [f"{block}/conv2"])
            first = f"{blocks[0]}/shortcut" if self._projects(stage) else "stem"
            makes = [first, *(f"{block}/conv2" for block in blocks)]
            within = blocks[1:] if self._projects(stage) else blocks
            after = self._entered(stage + 1) if stage < 3 else ["head"]
            reads = [*(f"{block}/conv1" for block in within), *after]
            found[f"stage{stage}"] = _channels(self._channels(stage), makes, reads)
        return found

    def _entered(self, stage: int) -> Iterator[str]:
        """Name the convolutions that read what enters a stage."""
        yield f"stage{stage}_block0/conv1"
        if self._projects(stage):
            yield f"stage{stage}_block0/shortcut"

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits and the map after every stage."""
        checks.floating("ResNet", inputs=inputs)
        if inputs.ndim != 4:
            raise ValueError(
                "ResNet: inputs must be [batch, height, width, channels], "
                f"got {list(inputs.shape)}"
            )
        x = _conv(self._stem, 3, 1, "stem")(inputs)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm"
        )(x)
        x = nn.relu(x)
        features = {"stem": x}
        for stage in (1, 2, 3):
            for number in range(self._blocks):
                name = f"stage{stage}_block{number}"
                stride = 2 if stage > 1 and number == 0 else 1
                project = number == 0 and self._projects(stage)
                sizes = self._channels(stage), self._inner(stage, number)
                before = BasicBlock(*sizes, stride, project, name=name)(x, train)
                x = nn.relu(before)
            features[f"stage{stage}_preact"] = before
            features[f"stage{stage}"] = x
        features["pooled"] = pooled = x.mean(axis=(1, 2))
        head = nn.Dense(self.classes, name="head")
        logits = head(pooled)
        features["class_maps"] = head(x)  # their mean over space is the logits
        return Outputs(logits, features)
