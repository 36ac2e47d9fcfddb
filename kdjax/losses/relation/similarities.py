"""Similarities of the examples of a batch: products, cosines, kernels of cosines."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    l2_normalize,
    normalized_products,
    rescaled,
    scalar,
)
from kdjax.losses._softmax import kl
from kdjax.losses.relation._columns import Rows, embeddings, rows
from kdjax.losses.relation.distances import pair_distances


def _products(points: Array, others: Array) -> Float[Array, "rows columns"]:
    return jnp.matmul(points, others.T, precision="highest")


def _mean_over_columns(batch: Rows, values: Array) -> Float[Array, " rows"]:
    """Divide the sum over all pairs by B; a relation with nobody is 0."""
    values = jnp.where(batch.pairs & (batch.total > 1), values, 0.0)
    return values.sum(axis=1) / jnp.maximum(batch.total, 1.0)


def _profile(batch: Rows, number: int) -> Float[Array, "rows columns"]:
    """Return the products with all columns, each row l2-normalised."""
    own, size = rescaled(batch.local[number], axis=1)
    others, _ = rescaled(batch.columns[number], axis=(0, 1))
    return normalized_products(_products(own, others), size)


def similarity_preserving(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return the difference of the similarity profiles of the examples.

    `(1/B) Σ_j (G_ij − G'_ij)²`: row `i` of `G` holds the products `⟨s_i, s_j⟩` of the
    student's activations with those of all examples, divided by the row's l2 norm;
    `G'` is the teacher's. It is 0 for a batch of one.

    Published weight: 3000.
    Use when inputs that are alike for the teacher shall be alike for the student, and
    their feature maps have different sizes.

    Args:
      student: `[batch, dim]`, or `[batch, ...]`, which is flattened.
      teacher: `[batch, dim]`, the same batch; its dimension may differ.
      where: `[batch]`; False masks an example.
      axis_name: the mapped axis over which the batch is spread, if it is.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> teacher = jnp.array([[1.0], [1.0]])
    >>> similarity_preserving(student, teacher).round(4)
    Array([0.2929, 0.2929], dtype=float32)

    Tung and Mori, 2019: https://arxiv.org/abs/1907.09682
    """
    name = "similarity_preserving"
    student, teacher, where = embeddings(name, student, teacher, where)
    batch = rows(where, axis_name, student, teacher)
    difference = _profile(batch, 0) - _profile(batch, 1)
    return _mean_over_columns(batch, jnp.square(difference))


def _unit_rows(batch: Rows, number: int) -> tuple[Array, Array]:
    """Return an argument's rows and columns, each l2-normalised."""
    arrays = batch.local[number], batch.columns[number]
    own, others = (l2_normalize(array, axis=1) for array in arrays)
    return own, others


def _cosines(batch: Rows, number: int) -> Float[Array, "rows columns"]:
    return _products(*_unit_rows(batch, number))


def _affinities(batch: Rows, number: int) -> Float[Array, "rows columns"]:
    """Return rows of `(cos + 1)/2` that sum to 1; 0 where masked."""
    own, others = _unit_rows(batch, number)
    cosines = _products(own, others)
    # Where `cos + 1` cancels it is taken from `|u + v|²`: the loss tells 1e-7 from 0.
    opposite = batch.pairs & (cosines < -0.97)
    halves = jax.lax.cond(
        opposite.any(),
        lambda: jnp.where(opposite, pair_distances(own, -others) ** 2 / 4.0, 1.0),
        lambda: jnp.ones_like(cosines),
    )
    halves = jnp.where(opposite, halves, (cosines + 1.0) / 2.0)
    halves = jnp.where(batch.pairs, halves, 0.0)
    total = halves.sum(axis=1, keepdims=True)
    return halves / jnp.where(total > 0, total, 1.0)


def probabilistic_transfer(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return the divergence of the probabilities that examples are neighbours (PKT).

    `(1/B) Σ_j P_ij log((P_ij + 1e-7)/(Q_ij + 1e-7))` with `P` the teacher's rows of
    `(cos + 1)/2` with all examples, each divided by its sum, and `Q` the student's.

    Published weight: 30000.
    Use when student and teacher embeddings differ in dimension and only directions
    count, as in retrieval by cosine; it needs no hyper-parameter.

    Args:
      student: `[batch, dim]`, or `[batch, ...]`, which is flattened.
      teacher: `[batch, dim]`, the same batch; its dimension may differ.
      where: `[batch]`; False masks an example.
      axis_name: the mapped axis over which the batch is spread, if it is.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> teacher = jnp.array([[1.0], [1.0]])
    >>> probabilistic_transfer(student, teacher).round(4)
    Array([0.0294, 0.0294], dtype=float32)

    Passalis and Tefas, PKT, 2018: https://arxiv.org/abs/1803.10837
    """
    name = "probabilistic_transfer"
    student, teacher, where = embeddings(name, student, teacher, where)
    batch = rows(where, axis_name, student, teacher)
    q, p = _affinities(batch, 0), _affinities(batch, 1)
    ratio = jnp.log1p((p - q) / (q + 1e-7))
    # `Σ p·ratio`, from a sum that has no cancellation: both p and q sum to 1
    divergence = kl(p + 1e-7, q + 1e-7, ratio) - 1e-7 * ratio.sum(axis=1)
    return divergence / jnp.maximum(batch.total, 1.0)


def _kernel(cosines: Array, gamma: Array, order: int) -> Array:
    """Return the Gaussian kernel's Taylor polynomial in the cosine."""
    weight = jnp.exp(-2.0 * gamma)
    power = jnp.ones_like(cosines)
    total = weight * power
    for p in range(1, order + 1):
        weight = weight * (2.0 * gamma / p)
        power = power * cosines
        total = total + weight * power
    return total


def correlation_congruence(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    gamma: Scalar = 0.4,
    order: int = 2,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return the difference of the Gaussian kernels between the examples.

    `(1/B) Σ_j (K_ij − K'_ij)²` with `K = Σ_{p ≤ P} e^{−2γ} (2γ)^p/p! cos^p`, the Taylor
    polynomial of `exp(−γ ‖u_i − u_j‖²)` for the student's unit vectors `u`, and `K'`
    that of the teacher's. It is 0 for a batch of one.

    Published weight: 100.
    Use when products of embeddings are too linear a measure of how examples relate,
    usually beside `soft_target_kl`.

    Args:
      student: `[batch, dim]`, or `[batch, ...]`, which is flattened.
      teacher: `[batch, dim]`, the same batch; its dimension may differ.
      gamma: `γ > 0`, the kernel's sharpness.
      order: `P ≥ 0`, the polynomial's degree, an int.
      where: `[batch]`; False masks an example.
      axis_name: the mapped axis over which the batch is spread, if it is.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> teacher = jnp.array([[1.0], [1.0]])
    >>> correlation_congruence(student, teacher).round(4)
    Array([0.1266, 0.1266], dtype=float32)

    Peng et al., CC, 2019: https://arxiv.org/abs/1904.01802
    """
    name = "correlation_congruence"
    student, teacher, where = embeddings(name, student, teacher, where)
    checks.positive(name, gamma=gamma)
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise ValueError(f"{name}: order must be an int >= 0, got {order}")
    batch = rows(where, axis_name, student, teacher)
    gamma = scalar(name, "gamma", gamma, like=batch.local[0])
    by_student, by_teacher = (
        _kernel(_cosines(batch, number), gamma, order) for number in range(2)
    )
    return _mean_over_columns(batch, jnp.square(by_student - by_teacher))
