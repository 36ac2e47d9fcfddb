"""The order of the others by their distance from one example."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, rescaled, saturated, scalar
from kdjax.losses._softmax import log_softmax
from kdjax.losses.relation._columns import embeddings, rows

__all__ = ["rank_order"]


def _squared_distances(vectors: Array, query: Array) -> Float[Array, " columns"]:
    """Return the squared distance of each vector from that of the query."""
    return jnp.square(saturated(vectors - vectors[query][None])).sum(axis=-1)


def _power(square: Array, beta: Array) -> Array:
    """Return `d^β` from `d²`, at most e⁶⁰; 0 with zero gradient where d is 0."""
    apart = square > 0
    log = 0.5 * beta * jnp.log(jnp.where(apart, square, 1.0))
    return jnp.where(apart, jnp.exp(jnp.minimum(log, 60.0)), 0.0)


def rank_order(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    alpha: Scalar = 3.0,
    beta: Scalar = 3.0,
    length: int = 4,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, "1"]:
    """Return how unlikely the student finds the teacher's order of nearest examples.

    `−Σ_{r=1}^n log(exp(S_π(r)) / Σ_{k=r}^n exp(S_π(k)))`, the Plackett–Luce likelihood
    of the order of the n = `length` examples that the teacher has nearest to the first
    example: `S_j = −α d_j^β` with d the student's Euclidean distance of example j from
    the first one, and π the order by the teacher's distance (of equal ones, the earlier
    example first). The teacher's part in it is that order, so it has no gradient.

    Published weight: none that is independent of the embeddings' scale.
    Use when a student's embeddings are for retrieval, where the order of the nearest
    counts and distances do not.

    Args:
      student: `[batch, student_dim]`, commonly l2-normalised.
      teacher: `[batch, teacher_dim]`; the dims may differ.
      alpha: `α > 0`.
      beta: `β > 0`.
      length: how many of the teacher's nearest examples are ordered, at least 2 for a
        loss that is not 0.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: every device returns
        the value of the whole batch.

    Returns:
      `[1]`, one value per batch, 0 for a batch of one; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student = jnp.array([[0.0], [1.0], [1.0]])
    >>> teacher = jnp.array([[0.0], [1.0], [2.0]])
    >>> rank_order(student, teacher).round(4)
    Array([0.6931], dtype=float32)

    Chen, Wang and Zhang, DarkRank, 2018: https://arxiv.org/abs/1707.01220
    """
    name = "rank_order"
    student, teacher, where = embeddings(name, student, teacher, where)
    checks.positive(name, alpha=alpha, beta=beta)
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"{name}: length must be an int > 0, got {length}")
    examples = rows(where, axis_name, student, teacher)
    student, teacher = examples.columns
    alpha = scalar(name, "alpha", alpha, like=student)
    beta = scalar(name, "beta", beta, like=student)
    query = jnp.argmax(examples.columns_kept)  # the first kept one
    others = examples.columns_kept & (jnp.arange(len(student)) != query)
    teacher, _ = rescaled(teacher, axis=(0, 1))  # the order is that at any scale
    far = jnp.where(others, _squared_distances(teacher, query), jnp.inf)
    order = jnp.argsort(far)  # stable; those that do not take part come last
    scores = -alpha * _power(_squared_distances(student, query), beta)[order]
    place = jnp.arange(len(scores))[None]
    step = jnp.arange(min(length, len(scores)))[:, None]
    among = (place < length) & others[order][None]  # the nearest, which are ordered
    remaining = (place >= step) & among
    choices = log_softmax(jnp.broadcast_to(scores, remaining.shape), where=remaining)
    chosen = (place == step) & among
    return jnp.where(chosen, -choices.log_probs, 0.0).sum().reshape(1)
