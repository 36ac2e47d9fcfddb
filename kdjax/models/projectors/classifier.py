"""The student's last map brought to the teacher's, for the teacher's own classifier."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import Conv, check_maps


class SimKDProjector(nn.Module):
    """The bottleneck of SimKD: 1x1, 3x3 and 1x1 convolutions, each normalised, ReLU.

    Its output is matched to the teacher's last map (`losses.hint`) and classified by
    the teacher's own classifier, so student, projector and classifier are exported
    together::

        simkd = networks.with_parts(student, {
            "stage3": SimKDProjector(256),
            "logits": networks.Part(ReusedClassifier(**teacher_head), "stage3"),
        })

    Args:
      features: channels of the teacher's last map.
      factor: `features // factor` are the channels within.

    Call:
      `[batch, *spatial, channels]` and `train` give `[batch, *spatial, features]`.

    Raises:
      ValueError: if a size is not positive, no channel is left within, or the input is
        no map.

    Source: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier",
    https://arxiv.org/abs/2203.14001 (2022).

    >>> import jax
    >>> init = SimKDProjector(256).init_with_output
    >>> jax.eval_shape(init, jax.random.key(0), jnp.ones((2, 8, 8, 64)))[0].shape
    (2, 8, 8, 256)
    """

    features: int
    factor: int = 2

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("SimKDProjector", features=self.features, factor=self.factor)
        if self.factor > self.features:
            raise ValueError(
                f"SimKDProjector: factor {self.factor} leaves no channel of "
                f"{self.features}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array, train: bool = False) -> Array:
        """Return the map as the teacher's is expected."""
        check_maps("SimKDProjector", maps)
        inner = self.features // self.factor
        x = nn.relu(Conv(inner, name="conv1")(maps, train))
        x = nn.relu(Conv(inner, 3, name="conv2")(x, train))
        return nn.relu(Conv(self.features, name="conv3")(x, train))


class ReusedClassifier(nn.Module):
    """A trained linear classifier on the mean over space, never trained further.

    Its arrays are variables of the collection `frozen`: beside the parameters that the
    optimizer changes, saved with them, arguments of a compiled program.

    Args:
      kernel: `[channels, classes]`, the teacher's.
      bias: `[classes]`, or None.

    Call:
      `[batch, *spatial, channels]`, spatial axes or none, gives `[batch, classes]`.

    Raises:
      ValueError: if the shapes do not fit.

    Source: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier",
    https://arxiv.org/abs/2203.14001 (2022).

    >>> import jax
    >>> head = ReusedClassifier(jnp.eye(3))
    >>> said, variables = head.init_with_output(jax.random.key(0), jnp.ones((2, 4, 3)))
    >>> said.shape, list(variables)
    ((2, 3), ['frozen'])
    """

    kernel: Any
    bias: Any = None

    def __post_init__(self) -> None:
        """Check the shapes before anything is built."""
        kernel = jnp.shape(self.kernel)
        bias = kernel[1:] if self.bias is None else jnp.shape(self.bias)
        if len(kernel) != 2 or bias != kernel[1:]:
            raise ValueError(
                "ReusedClassifier: kernel must be [channels, classes] and bias "
                f"[classes], got {list(kernel)} and {list(bias)}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        """Return the logits."""
        check_maps("ReusedClassifier", maps, least_axes=0)
        # copied: the teacher must not lose its arrays to whoever donates these
        kernel = self.variable("frozen", "kernel", jnp.array, self.kernel).value
        if maps.shape[-1] != kernel.shape[0]:
            raise ValueError(
                f"ReusedClassifier: kernel {list(kernel.shape)} does not fit the "
                f"channels of {list(maps.shape)}"
            )
        logits = maps.mean(axis=tuple(range(1, maps.ndim - 1))) @ kernel
        if self.bias is None:
            return logits
        bias = self.variable("frozen", "bias", jnp.array, self.bias).value
        return logits + bias[None]
