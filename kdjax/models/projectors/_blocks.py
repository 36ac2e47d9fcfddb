"""What the learned parts are built of."""

from flax import linen as nn
from jax import Array

from kdjax import checks


def check_maps(function: str, *maps: Array, least_axes: int = 1) -> None:
    """Raise unless all are floating `[batch, *spatial, channels]`."""
    for array in maps:
        checks.floating(function, inputs=array)
        if array.ndim < 2 + least_axes:
            spatial = "*spatial, " if least_axes else "..., "
            raise ValueError(
                f"{function}: inputs must be [batch, {spatial}channels] with at least "
                f"{least_axes} axes in the middle, got {list(array.shape)}"
            )


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """Return a batch normalisation with the constants of the published networks."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name
    )


class Conv(nn.Module):
    """A convolution that keeps the size, then batch normalisation if asked for.

    Args:
      features: number of output channels.
      size: places per spatial axis that one output sees; odd.
      norm: whether batch statistics normalise the result, instead of a bias.
    """

    features: int
    size: int = 1
    norm: bool = True

    @nn.compact
    def __call__(self, maps: Array, train: bool = False) -> Array:
        """Map `[batch, *spatial, any]` to `[batch, *spatial, features]`."""
        kernel = (self.size,) * (maps.ndim - 2)
        x = nn.Conv(self.features, kernel, use_bias=not self.norm, name="conv")(maps)
        return batch_norm(train, "norm")(x) if self.norm else x
