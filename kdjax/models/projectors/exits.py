"""What lets a network answer before its end, and several answer together."""

from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import Conv


class Bottleneck(nn.Module):
    """An early layer brought to the features that a head reads: an exit's first half.

    A map gets a 3x3 convolution with batch normalisation and ReLU, then its mean over
    space; a vector gets a linear layer and ReLU. An `nn.Dense(classes)` that reads it
    is the exit's second half.

    Args:
      features: width of the result, that of what the network's own head reads.

    Call:
      `[batch, *spatial, channels]` or `[batch, channels]` and `train` give
      `[batch, features]`.

    Raises:
      ValueError: if `features` is not positive or the input has no batch axis.

    Source: Zhang et al., "Be your own teacher", https://arxiv.org/abs/1905.08094
    (2019).

    >>> import jax
    >>> init = Bottleneck(64).init_with_output
    >>> jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((2, 8, 8, 16)))[0].shape
    (2, 64)
    """

    features: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Return `[batch, features]`."""
        checks.positive("Bottleneck", features=self.features)
        checks.floating("Bottleneck", inputs=inputs)
        if inputs.ndim < 2:
            raise ValueError(
                "Bottleneck: inputs must be [batch, ..., channels], got "
                f"{list(inputs.shape)}"
            )
        if inputs.ndim == 2:
            return nn.relu(nn.Dense(self.features, name="dense")(inputs))
        x = nn.relu(Conv(self.features, 3, name="conv")(inputs, train))
        return x.mean(axis=tuple(range(1, x.ndim - 1)))


class Gate(nn.Module):
    """How much each of several networks counts for an example, learned.

    It reads what all of them see, side by side: `[networks, batch, ...]`, a feature of
    a `teachers.ensemble`.

    Call:
      `[networks, batch, ...]` gives weights `[networks, batch]` that sum to 1 over the
      networks, as `teachers.mean_logits(logits, weights)` takes them.

    Raises:
      ValueError: if the input is not floating or has less than three axes.

    Source: Lan, Zhu and Gong, "Knowledge distillation by on-the-fly native ensemble",
    https://arxiv.org/abs/1806.04606 (2018).

    >>> import jax
    >>> init = Gate().init_with_output
    >>> jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((3, 2, 16)))[0].shape
    (3, 2)
    """

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Return `[networks, batch]`."""
        checks.floating("Gate", features=features)
        if features.ndim < 3:
            raise ValueError(
                "Gate: features must be [networks, batch, ...], got "
                f"{list(features.shape)}"
            )
        number, batch, *_ = features.shape
        seen = features.swapaxes(0, 1).reshape(batch, -1)
        return nn.softmax(nn.Dense(number, name="dense")(seen)).T
