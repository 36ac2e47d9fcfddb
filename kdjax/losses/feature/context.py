"""Feature maps at several sizes, as maps of classes, and across several layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import checks
from kdjax.losses._arrays import l2_normalize, saturated, upcast
from kdjax.losses._maps import (
    adaptive_pool,
    check_channels,
    check_maps,
    flat_space,
    map_pair,
)


def _mean_square(maps: Array) -> Array:
    return jnp.square(maps).mean(axis=tuple(range(1, maps.ndim)))


def hierarchical_context(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return the mean squared difference of two maps and of their pooled versions.

    `[mse + Σ_k 2^{-k} mse_k] / (1 + Σ_k 2^{-k})`, where `mse_k` is that of both maps
    pooled to `l` per spatial axis, for `l` in 4, 2, 1 smaller than the map's shorter
    side and `k = 1, 2, …` over the levels used.

    Published weight: 1 on ImageNet, 0.6 to 8 by the pair of networks on CIFAR-100.
    Use when the coarse layout of a map should count, not each of its points alone, in
    particular between maps of different depth.

    Args:
      student: `[batch, *spatial, channels]`, one or more spatial axes; project it to
        the teacher's channels first.
      teacher: the same batch, number of spatial axes and channels; where a spatial
        size differs, the larger is pooled to the smaller.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[[1.0], [3.0]]])  # two points, one channel
    >>> hierarchical_context(student, jnp.zeros((1, 2, 1)))  # (5 + 4/2) / (1 + 1/2)
    Array([4.6666665], dtype=float32)

    Chen et al., ReviewKD, 2021: https://arxiv.org/abs/2104.09044
    """
    student, teacher = map_pair("hierarchical_context", student, teacher)
    difference = saturated(student - teacher)  # pooling is linear: once for both
    spatial = difference.shape[1:-1]
    levels = [level for level in (4, 2, 1) if level < min(spatial)]
    value, norm = _mean_square(difference), 1.0
    for k, level in enumerate(levels, start=1):
        pooled = adaptive_pool(difference, (level,) * len(spatial))
        value += 0.5**k * _mean_square(pooled)
        norm += 0.5**k
    return value / norm


def class_activation(
    student: Float[Array, "batch *student_space classes"],
    teacher: Float[Array, "batch *teacher_space classes"],
    *,
    size: int = 2,
) -> Float[Array, " batch"]:
    """Return the mean squared difference of pooled, normalised class activation maps.

    `mean_{i,c} (ŝ_ic − t̂_ic)²` over the places i and classes c, with `ŝ` and `t̂` the
    class maps pooled to `size` per spatial axis and l2-normalised over space, each
    class by itself.

    Published weight: by the pair of networks, for instance 15 for ResNet-32x4 and
    ResNet-8x4.
    Use when both networks end in global pooling and a linear classifier: a class map is
    the classifier applied at every place.

    Args:
      student: `[batch, *spatial, classes]`, one or more spatial axes.
      teacher: the same batch, number of spatial axes and classes; any sizes.
      size: the places kept per spatial axis. A map that is smaller is enlarged by the
        same bins, which then repeat its places.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or the size is not as above.

    >>> student = jnp.array([[[3.0], [0.0]]])  # two places, one class
    >>> class_activation(student, jnp.array([[[0.0], [2.0]]]))
    Array([1.], dtype=float32)

    Guo et al., CAT-KD, 2023:
    https://openaccess.thecvf.com/content/CVPR2023/html/Guo_Class_Attention_Transfer_Based_Knowledge_Distillation_CVPR_2023_paper.html
    """
    name = "class_activation"
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_maps(name, student=student, teacher=teacher)
    check_channels(name, student=student, teacher=teacher)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{name}: size must be an int of at least 1, got {size}")
    spatial = (size,) * (student.ndim - 2)
    s, t = (
        l2_normalize(flat_space(adaptive_pool(maps, spatial)), axis=1)
        for maps in upcast(student, teacher)
    )
    return _mean_square(s - t)


def _check_nested(function: str, weights: Array, **nested: Sequence) -> None:
    """Raise unless `nested[i][j]` is there for each of the weights `[batch, i, j]`."""
    checks.floating(function, weights=weights)
    if weights.ndim != 3 or 0 in weights.shape[1:]:
        raise ValueError(
            f"{function}: weights must be [batch, n_student, n_teacher] with at least "
            f"one layer each, got {list(weights.shape)}"
        )
    for name, maps in nested.items():
        lengths = [len(row) for row in maps]
        if lengths != [weights.shape[2]] * weights.shape[1]:
            raise ValueError(
                f"{function}: {name} must be n_student lists of n_teacher maps for "
                f"weights {list(weights.shape)}, got lists of lengths {lengths}"
            )


def _weighted_mean_square(weight: Array, difference: Array) -> Array:
    """`w · mean d²` per example, saturated so that the product is finite as well."""
    weight = saturated(weight)
    most = float(jnp.finfo(weight.dtype).max) ** 0.5 * 1e-3  # as `saturated` has it
    room = most / jnp.sqrt(jnp.maximum(jnp.abs(weight), 1.0))
    room = jax.lax.stop_gradient(room).reshape(-1, *[1] * (difference.ndim - 1))
    return weight * _mean_square(jnp.clip(difference, -room, room))


def semantic_calibration(
    weights: Float[Array, "batch n_student n_teacher"],
    student_maps: Sequence[Sequence[Float[Array, "batch ..."]]],
    teacher_maps: Sequence[Sequence[Float[Array, "batch ..."]]],
) -> Float[Array, " batch"]:
    """Return the squared differences of all pairs of layers, weighted per example.

    `Σ_ij w_ij · mean (s_ij − t_ij)² / n_student` with `s_ij` the map of student layer
    i projected for teacher layer j, `t_ij` the latter's map, and the mean over all
    elements. The weights are a learned attention over the teacher's layers, usually a
    softmax over j.

    Published weight: 400.
    Use when it is not known which teacher layer a student layer should follow.

    Args:
      weights: `[batch, n_student, n_teacher]`, w.
      student_maps: n_student lists of n_teacher maps `[batch, *spatial, channels]`,
        already projected: `student_maps[i][j]` has the channels of
        `teacher_maps[i][j]`. Sizes may differ between pairs.
      teacher_maps: the same lists of the teacher's maps; within a pair the larger is
        pooled to the smaller.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above, or a map is missing.

    >>> one, two = jnp.ones((1, 2, 1)), jnp.full((1, 2, 1), 2.0)
    >>> weights = jnp.array([[[0.25, 0.75]]])  # one student layer, two of the teacher
    >>> semantic_calibration(weights, [[one, one]], [[one, two]])
    Array([0.75], dtype=float32)

    Chen et al., SemCKD, 2021: https://arxiv.org/abs/2012.03236
    """
    name = "semantic_calibration"
    weights = jnp.asarray(weights)
    _check_nested(name, weights, student_maps=student_maps, teacher_maps=teacher_maps)
    batch, n_student, n_teacher = weights.shape
    [weights] = upcast(weights)
    total = jnp.zeros(batch, weights.dtype)
    for i in range(n_student):
        for j in range(n_teacher):
            student, teacher = map_pair(name, student_maps[i][j], teacher_maps[i][j])
            if len(student) != batch:
                raise ValueError(
                    f"{name}: weights and maps must have one batch size: weights "
                    f"{list(weights.shape)}, maps {list(student.shape)}"
                )
            weight, difference = upcast(weights[:, i, j], student - teacher)
            total += _weighted_mean_square(weight, difference)
    return total / n_student
