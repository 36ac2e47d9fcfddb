"""Distances between the examples of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses._arrays import smooth_l1
from kdjax.losses.relation._columns import Rows, embeddings, gather, rows


def _pull(points: Array, others: Array, weights: Array) -> Array:
    """Return `Σ_j w_ij (x_i − y_j)` from direct differences, one i at a time."""

    def one(pair: tuple[Array, Array]) -> Array:
        point, weight = pair
        return jnp.matmul(weight, point[None] - others, precision="highest")

    return jax.lax.map(one, (points, weights))


@jax.custom_vjp
@jax.jit  # without it the differences of all pairs would be held when not compiled
def pair_distances(
    points: Float[Array, "rows dim"], others: Float[Array, "columns dim"]
) -> Float[Array, "rows columns"]:
    """Return the distances `‖x_i − y_j‖` from direct differences of rescaled points.

    Those below 3e-16 (in float32), whose squares lose digits, are exactly 0. Equal
    points have no gradient. Memory is that of the arrays, in value and gradient.
    """
    square = jnp.square(points[:, None] - others[None]).sum(axis=-1)
    info = jnp.finfo(square.dtype)
    apart = square > float(info.tiny) / float(info.eps)
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def _forward(points: Array, others: Array) -> tuple[Array, tuple[Array, ...]]:
    distance = pair_distances(points, others)
    return distance, (points, others, distance)


def _backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array]:
    points, others, distance = kept
    apart = distance > 0
    weights = jnp.where(apart, cotangent, 0.0) / jnp.where(apart, distance, 1.0)
    return _pull(points, others, weights), _pull(others, points, weights.T)


pair_distances.defvjp(_forward, _backward)


def unit_points(batch: Rows, number: int) -> tuple[Array, Array, Array]:
    """Return an argument's rows and columns over a power of two near their peak / 16.

    By a power of two because that is exact: a rounded quotient may be fused into the
    difference of two of them, and equal points would then be 1e-8 apart.

    Returns:
      Rows, columns, and the power of two, which counts as a constant.
    """
    columns = batch.columns[number]
    info = jnp.finfo(columns.dtype)
    peak = jax.lax.stop_gradient(jnp.abs(columns).max())
    alive = peak > float(info.tiny) / float(info.eps)
    peak = 2.0**-4 * jnp.where(alive, peak, 1.0)  # its reciprocal is no denormal
    power = jax.lax.reduce_precision(peak, info.nexp, mantissa_bits=0)
    columns = jnp.where(alive, columns, 0.0) / power
    points = jax.lax.dynamic_slice_in_dim(columns, batch.first, len(batch.kept))
    return points, columns, power


def _relative_distances(batch: Rows, number: int, axis_name: str | None) -> Array:
    """Return `[rows, columns]` distances over their mean off the diagonal."""
    points, others, _ = unit_points(batch, number)
    distance = pair_distances(points, others)
    distance = jnp.where(batch.pairs, distance, 0.0)
    count = jnp.maximum(batch.total * (batch.total - 1.0), 1.0)
    mean = gather(distance.sum(axis=1), axis_name).sum() / count
    return distance / jnp.where(mean > 0, mean, 1.0)


def rkd_distance(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return relational distillation by distances, in units of their mean.

    `(1/B) Σ_j smoothl1(d_ij/μ − d'_ij/μ')` with `d_ij = ‖s_i − s_j‖` of the student's
    rows, `d'_ij` that of the teacher's, and `μ`, `μ'` their means over all `i ≠ j`;
    `smoothl1(x)` is `½x²` where `|x| < 1` and `|x| − ½` beyond. Neither dimension nor
    scale need be equal. Where all rows are equal, `d/μ` is 0.

    Published weight: 25.
    Use when student and teacher embeddings differ in dimension or scale, and how far
    examples are apart is what counts, as in retrieval and metric learning.

    Args:
      student: `[batch, dim]`, or `[batch, ...]`, which is flattened.
      teacher: `[batch, dim]`, the same batch; its dimension may differ.
      where: `[batch]`; False masks an example.
      axis_name: the mapped axis over which the batch is spread, if it is.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[0.0], [1.0], [2.0]])
    >>> teacher = jnp.array([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    >>> rkd_distance(student, teacher).round(4)
    Array([0.0138, 0.0055, 0.0138], dtype=float32)

    Park et al., RKD, 2019: https://arxiv.org/abs/1904.05068
    """
    student, teacher, where = embeddings("rkd_distance", student, teacher, where)
    batch = rows(where, axis_name, student, teacher)
    by_student, by_teacher = (
        _relative_distances(batch, number, axis_name) for number in range(2)
    )
    total = smooth_l1(by_student - by_teacher).sum(axis=1)
    return total / jnp.maximum(batch.total, 1.0)
