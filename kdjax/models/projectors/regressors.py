"""One layer of the student brought to the shape of one of the teacher's."""

import math
from typing import NamedTuple

from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import batch_norm, check_maps


class _Fit(NamedTuple):
    """A convolution along one axis."""

    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1  # of the input: more than 1 is a transposed convolution


def _fit(size: int, wanted: int) -> _Fit:
    """Return the convolution from `size` places to `wanted` ones."""
    if size == wanted:
        return _Fit()
    if size % wanted == 0:
        stride = size // wanted
        return _Fit(2 * stride - 1, stride, (stride - 1, stride - 1))
    if wanted % size == 0:
        times = wanted // size
        around = 3 * times - 2
        return _Fit(2 * times, 1, (around // 2, around - around // 2), times)
    around = max(wanted - size, 0)
    return _Fit(abs(size - wanted) + 1, 1, (around, around))


class ConvRegressor(nn.Module):
    """The regressor of FitNets: one convolution, batch normalisation, ReLU.

    Along an axis whose size does not change the kernel is 1 wide. To a k-th of the size
    it is 2k - 1 wide with stride k, to k times the size a transposed convolution 2k
    wide (k = 2: the 3x3 and 4x4 ones of the published code), and between other sizes as
    wide as it takes.

    Args:
      features: the teacher's channels.
      spatial: the teacher's spatial shape; None keeps the student's, which suits the
        losses on maps: they pool the larger map to the smaller.
      relu: False if the teacher's map is one before its ReLU.

    Call:
      `[batch, *spatial, channels]` and `train` give `[batch, *spatial, features]`.

    Raises:
      ValueError: if a size is not positive, the input is no map, or `spatial` has
        another number of axes.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets",
    https://arxiv.org/abs/1412.6550 (2015); with batch normalisation: Tian, Krishnan and
    Isola, "Contrastive Representation Distillation",
    https://arxiv.org/abs/1910.10699 (2020).

    >>> import jax
    >>> init = ConvRegressor(32, spatial=(4, 4)).init_with_output
    >>> jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((2, 8, 8, 16)))[0].shape
    (2, 4, 4, 32)
    """

    features: int
    spatial: tuple[int, ...] | None = None
    relu: bool = True

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("ConvRegressor", features=self.features)
        for size in self.spatial or ():
            checks.positive("ConvRegressor", spatial=size)
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array, train: bool = False) -> Array:
        """Return the map as the teacher's is expected."""
        check_maps("ConvRegressor", maps)
        sizes = maps.shape[1:-1]
        wanted = sizes if self.spatial is None else self.spatial
        if len(wanted) != len(sizes):
            raise ValueError(
                f"ConvRegressor: spatial {list(wanted)} needs as many axes as the "
                f"input has: {list(maps.shape)}"
            )
        fits = [_fit(*pair) for pair in zip(sizes, wanted, strict=True)]
        x = nn.Conv(
            self.features,
            [fit.kernel for fit in fits],
            strides=[fit.stride for fit in fits],
            padding=[fit.padding for fit in fits],
            input_dilation=[fit.dilation for fit in fits],
            use_bias=False,
            name="conv",
        )(maps)
        x = batch_norm(train, "norm")(x)
        return nn.relu(x) if self.relu else x


class LinearEmbedding(nn.Module):
    """Flatten, then one linear layer.

    The losses that compare directions normalise by themselves. CRD embeds both
    networks' features: the teacher's own `LinearEmbedding` is a part that reads the
    teacher.

    Args:
      features: width of the embedding.

    Call:
      `[batch, ...]` gives `[batch, features]`.

    Raises:
      ValueError: if the width is not positive or the input is no floating batch.

    Source: Tian, Krishnan and Isola, "Contrastive Representation Distillation",
    https://arxiv.org/abs/1910.10699 (2020).

    >>> import jax
    >>> init = LinearEmbedding(128).init_with_output
    >>> jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((2, 8, 8, 16)))[0].shape
    (2, 128)
    """

    features: int

    def __post_init__(self) -> None:
        """Check the width before anything is built."""
        checks.positive("LinearEmbedding", features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Return the embedding."""
        check_maps("LinearEmbedding", inputs, least_axes=0)
        flat = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
        return nn.Dense(self.features, name="dense")(flat)


class VariationalRegressor(nn.Module):
    """The Gaussian of VID: a mean for every place, a variance for every channel.

    The mean is three 1x1 convolutions of the student's map; the variance is learned and
    the same for all inputs. Both are what `losses.variational_information` takes before
    the teacher's map.

    Args:
      features: the teacher's channels.
      hidden: channels between the convolutions; None is `features`.
      initial_variance: the variance before training.

    Call:
      `[batch, *spatial, channels]`, spatial axes or none, gives `mean`
      `[batch, *spatial, features]` and `log_scale` `[features]`; the variance is
      `softplus(log_scale) + 1e-5`.

    Raises:
      ValueError: if a size is not positive, the variance is not above 1e-5, or the
        input is no map.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer",
    https://arxiv.org/abs/1904.05835 (2019).

    >>> import jax
    >>> init = VariationalRegressor(32).init_with_output
    >>> said, _ = jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((2, 8, 8, 16)))
    >>> [array.shape for array in said]
    [(2, 8, 8, 32), (32,)]
    """

    features: int
    hidden: int | None = None
    initial_variance: float = 5.0

    def __post_init__(self) -> None:
        """Check sizes and variance before anything is built."""
        hidden = self.features if self.hidden is None else self.hidden
        checks.positive("VariationalRegressor", features=self.features, hidden=hidden)
        if not 1e-5 < self.initial_variance < math.inf:
            raise ValueError(
                "VariationalRegressor: initial_variance must be > 1e-5, got "
                f"{self.initial_variance}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array) -> tuple[Array, Array]:
        """Return mean and logarithmic scale."""
        check_maps("VariationalRegressor", maps, least_axes=0)
        hidden, x = self.hidden or self.features, maps
        for name in ("conv1", "conv2"):
            x = nn.relu(nn.Dense(hidden, use_bias=False, name=name)(x))
        mean = nn.Dense(self.features, use_bias=False, name="conv3")(x)
        # the inverse of the softplus, written so that a large variance stays finite
        variance = self.initial_variance - 1e-5
        start = nn.initializers.constant(variance + math.log(-math.expm1(-variance)))
        return mean, self.param("log_scale", start, (self.features,))
