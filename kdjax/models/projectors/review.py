"""The fusion of knowledge review: shallow teacher layers teach deep student layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import Conv, check_maps


class ABF(nn.Module):
    """Attention-based fusion of a map with what was fused of the deeper ones.

    Both are weighted at every place by a sigmoid of both, and added.

    Args:
      features: the teacher's channels.
      hidden: channels of the fused map.

    Call:
      `maps` `[batch, *spatial, channels]`, `deeper`
      `[batch, *other_spatial, hidden]` or None for the deepest layer, and `train` give
      `[batch, *spatial, features]` and the fused `[batch, *spatial, hidden]`, which is
      the next layer's `deeper`. It is brought to the map's size by the nearest place.

    Raises:
      ValueError: if a size is not positive or an input is not as above.

    Source: Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review",
    https://arxiv.org/abs/2104.09044 (2021).

    >>> init = ABF(features=32, hidden=24).init_with_output
    >>> maps, deeper = jnp.ones((2, 8, 8, 16)), jnp.ones((2, 4, 4, 24))
    >>> said, _ = jax.eval_shape(init, jax.random.key(0), maps, deeper)
    >>> [array.shape for array in said]
    [(2, 8, 8, 32), (2, 8, 8, 24)]
    """

    features: int
    hidden: int

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("ABF", features=self.features, hidden=self.hidden)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, maps: Array, deeper: Array | None = None, train: bool = False
    ) -> tuple[Array, Array]:
        """Return the map as the teacher's is expected, and the fused one."""
        check_maps("ABF", maps)
        x = Conv(self.hidden, name="inner")(maps, train)
        if deeper is not None:
            check_maps("ABF", deeper)
            if deeper.ndim != x.ndim or (deeper.shape[0], deeper.shape[-1]) != (
                x.shape[0],
                self.hidden,
            ):
                raise ValueError(
                    f"ABF: deeper must be the batch and spatial axes of maps "
                    f"{list(maps.shape)} with {self.hidden} channels, got "
                    f"{list(deeper.shape)}"
                )
            y = jax.image.resize(deeper, x.shape, "nearest")
            both = jnp.concatenate([x, y], axis=-1)
            weights = nn.sigmoid(nn.Dense(2, name="attention")(both))
            x = x * weights[..., :1] + y * weights[..., 1:]
        return Conv(self.features, 3, name="outer")(x, train), x


class ReviewFusion(nn.Module):
    """Fuses the student's maps from the deepest to the shallowest, an `ABF` each.

    Args:
      features: the channels of the teacher's maps, in the order of the student's.
      hidden: channels of the fused maps; None is those of the student's deepest map,
        but at most 512.

    Call:
      a sequence of maps `[batch, *spatial, channels]`, the shallowest first, and
      `train` give a list of maps `[batch, *spatial, features[i]]` in the same order.
      `[batch, channels]`, such as the pooled features, is a map of one place.

    Raises:
      ValueError: if a size is not positive, the numbers of maps and `features` differ,
        or the maps are not as above.

    Source: Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review",
    https://arxiv.org/abs/2104.09044 (2021).

    >>> init = ReviewFusion(features=(32, 64)).init_with_output
    >>> maps = [jnp.ones((2, 8, 8, 16)), jnp.ones((2, 4, 4, 24))]
    >>> said, _ = jax.eval_shape(init, jax.random.key(0), maps)
    >>> [array.shape for array in said]
    [(2, 8, 8, 32), (2, 4, 4, 64)]
    """

    features: Sequence[int]
    hidden: int | None = None

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        if not isinstance(self.features, Sequence):
            raise ValueError(
                "ReviewFusion: features must be one number for each map, such as "
                f"(32, 64); got {self.features}"
            )
        for size in (*self.features, 1 if self.hidden is None else self.hidden):
            checks.positive("ReviewFusion", size=size)
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Sequence[Array], train: bool = False) -> list[Array]:
        """Return one map for each of the given."""
        check_maps("ReviewFusion", *maps, least_axes=0)
        if not maps or len(maps) != len(self.features):
            raise ValueError(
                f"ReviewFusion: needs one map for each of features "
                f"{list(self.features)}, got {len(maps)}"
            )
        hidden = self.hidden or min(512, maps[-1].shape[-1])
        axes = max(1, max(array.ndim for array in maps) - 2)
        fused, projected = None, []
        for index in reversed(range(len(maps))):
            x = maps[index]
            if x.ndim == 2:
                x = x.reshape(x.shape[0], *[1] * axes, x.shape[-1])
            fusion = ABF(self.features[index], hidden, name=f"fusion{index}")
            out, fused = fusion(x, fused, train)
            projected.append(out.reshape(*maps[index].shape[:-1], -1))
        return projected[::-1]
