"""Attention across layers: which of the teacher's a student's layer should follow."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import Conv, check_maps

Nested = list[list[Array]]


class _Direction(nn.Module):
    """A unit vector that says what a map shows: two layers on its mean over space."""

    features: int

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        x = maps.mean(axis=tuple(range(1, maps.ndim - 1)))
        x = nn.relu(nn.Dense(2 * self.features, name="dense1")(x))
        x = nn.Dense(self.features, name="dense2")(x)
        return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


class _Projection(nn.Module):
    """1x1, 3x3 and 1x1 convolutions to a teacher layer's channels."""

    features: int
    hidden: int

    @nn.compact
    def __call__(self, maps: Array, train: bool) -> Array:
        x = nn.relu(Conv(self.hidden, name="conv1")(maps, train))
        x = nn.relu(Conv(self.hidden, 3, name="conv2")(x, train))
        return nn.Dense(self.features, use_bias=False, name="conv3")(x)


def _pooled(maps: Array, spatial: tuple[int, ...]) -> Array:
    """Average each axis to the wanted size where it is a multiple of it.

    Elsewhere the loss does: here it only spares convolutions at the larger size.
    """
    window = tuple(
        size // wanted if size % wanted == 0 else 1
        for size, wanted in zip(maps.shape[1:-1], spatial, strict=True)
    )
    return nn.avg_pool(maps, window, window) if max(window) > 1 else maps


class CrossLayerAttention(nn.Module):
    """The attention of SemCKD over pairs of a student's and a teacher's layer.

    Each student layer has a query, each teacher layer a key, unit vectors of the
    features' means over space; the weights of a student layer are the softmax of its
    query's products with the keys. (The published code makes them of similarities
    within the batch, so that its width is the batch size; here an example's weights
    depend on the example alone, and any batch size will do.) Each student map is
    projected to each teacher layer's channels.

    Args:
      features: width of queries and keys.
      factor: channels within a projection for each of the teacher's.

    Call:
      a pair (student's maps, teacher's maps) of sequences of
      `[batch, *spatial, channels]`, and `train`, give what
      `losses.semantic_calibration` takes: `weights` `[batch, n_student, n_teacher]`
      and the lists `student_maps[i][j]`, projected, and `teacher_maps[i][j]`, as given.

    Raises:
      ValueError: if a size is not positive, a sequence is empty, or the maps are not
        floating maps of one number of spatial axes.

    Source: Chen et al., "Cross-Layer Distillation with Semantic Calibration",
    https://arxiv.org/abs/2012.03236 (2021).

    >>> init = CrossLayerAttention().init_with_output
    >>> student = [jnp.ones((2, 8, 8, 4))]
    >>> teacher = [jnp.ones((2, 8, 8, 6)), jnp.ones((2, 4, 4, 10))]
    >>> said, _ = jax.eval_shape(init, jax.random.key(0), (student, teacher))
    >>> weights, student_maps, teacher_maps = said
    >>> weights.shape, [array.shape for array in student_maps[0]]
    ((2, 1, 2), [(2, 8, 8, 6), (2, 4, 4, 10)])
    """

    features: int = 32
    factor: int = 2

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive(
            "CrossLayerAttention", features=self.features, factor=self.factor
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, maps: tuple[Sequence[Array], Sequence[Array]], train: bool = False
    ) -> tuple[Array, Nested, Nested]:
        """Return the weights and the maps of all pairs of layers."""
        student, teacher = maps
        _check(student, teacher)
        queries = [
            _Direction(self.features, name=f"query{i}")(x)
            for i, x in enumerate(student)
        ]
        keys = [
            _Direction(self.features, name=f"key{j}")(y) for j, y in enumerate(teacher)
        ]
        energy = jnp.einsum("ibd,jbd->bij", jnp.stack(queries), jnp.stack(keys))
        projected = [
            [self._project(i, x, j, y, train) for j, y in enumerate(teacher)]
            for i, x in enumerate(student)
        ]
        return nn.softmax(energy, axis=-1), projected, [list(teacher) for _ in student]

    def _project(self, i: int, x: Array, j: int, y: Array, train: bool) -> Array:
        channels = y.shape[-1]
        project = _Projection(channels, self.factor * channels, name=f"value{i}_{j}")
        return project(_pooled(x, y.shape[1:-1]), train)


def _check(student: Sequence[Array], teacher: Sequence[Array]) -> None:
    if not student or not teacher:
        raise ValueError(
            "CrossLayerAttention: needs at least one map of each network, got "
            f"{len(student)} of the student's and {len(teacher)} of the teacher's"
        )
    check_maps("CrossLayerAttention", *student, *teacher)
    if len({array.ndim for array in (*student, *teacher)}) > 1:
        shapes = [list(array.shape) for array in (*student, *teacher)]
        raise ValueError(
            "CrossLayerAttention: maps must have one number of spatial axes, got "
            f"{shapes}"
        )
