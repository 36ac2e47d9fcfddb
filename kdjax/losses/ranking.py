"""Matching rankings: of recommenders and of search engines."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    saturated,
    scalar,
    squared_difference,
    upcast,
)
from kdjax.losses._softmax import kl, log_ratio, tempered_pair

__all__ = ["listwise_kl", "margin_mse", "ranking_distillation"]


def _check_scores(function: str, student: Array, ranked: Array) -> None:
    """Raise unless both are floating scores of one batch, `[batch, ...]`."""
    checks.floating(function, student_scores=student, teacher_ranked_scores=ranked)
    shapes = student.shape, ranked.shape
    two_axes = all(len(shape) == 2 and shape[1] > 0 for shape in shapes)
    if not two_axes or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            f"{function}: student_scores must be [batch, items] and "
            f"teacher_ranked_scores [batch, K], got {list(shapes[0])} and "
            f"{list(shapes[1])}"
        )


def ranking_distillation(
    student_scores: Float[Array, "batch items"],
    teacher_ranked_scores: Float[Array, "batch K"],
    *,
    position_temperature: Scalar = 1.0,
    discrepancy: Scalar = 0.1,
) -> Float[Array, " batch"]:
    """Return ranking distillation: score the teacher's top-K items as positives.

    `Σ_r w_r (−log σ(s_r))`, `s_r` the student's score of the item that the teacher
    ranks r-th, r = 1 … K. `w_r = a_r · b_r`: the position weight `a_r ∝ exp(−r/λ)` sums
    to 1; the discrepancy weight `b_r = tanh(max(0, μ (rank_r − r)))` is 0 where the
    student ranks the item as high as the teacher does. `rank_r` is 1 + the number of
    items that the student scores higher than `s_r`. No gradient flows through `w_r`.

    Published weight: 1.
    Use when a recommender's teacher gives each user a short list of items and no
    scores.

    Args:
      student_scores: `[batch, items]`, the student's scores of all items, or of a
        sample of them: what ranks are counted in.
      teacher_ranked_scores: `[batch, K]`, the student's scores `s_r` of the teacher's
        top-K items, in the teacher's order.
      position_temperature: `λ > 0`, how far down the list the weight reaches.
      discrepancy: `μ > 0`, how soon a wrong rank gets full weight.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> scores = jnp.array([[2.0, 1.0, 0.0]])  # the teacher's best is the last item
    >>> ranking_distillation(scores, scores[:, 2:], discrepancy=10.0).round(4)
    Array([0.6931], dtype=float32)

    Tang and Wang, 2018: https://arxiv.org/abs/1809.07428
    """
    name = "ranking_distillation"
    student, ranked = jnp.asarray(student_scores), jnp.asarray(teacher_ranked_scores)
    _check_scores(name, student, ranked)
    checks.positive(
        name, position_temperature=position_temperature, discrepancy=discrepancy
    )
    student, ranked = upcast(student, ranked)
    spread = scalar(name, "position_temperature", position_temperature, student)
    sharpness = scalar(name, "discrepancy", discrepancy, student)
    place = jnp.arange(1, ranked.shape[1] + 1, dtype=ranked.dtype)
    position = jax.nn.softmax(-place / spread)
    higher = student[:, None, :] > ranked[:, :, None]
    rank = 1.0 + higher.sum(axis=-1, dtype=ranked.dtype)
    behind = jnp.tanh(jnp.maximum(sharpness * (rank - place[None]), 0.0))
    weight = position[None] * jax.lax.stop_gradient(behind)
    return (weight * jax.nn.softplus(saturated(-ranked))).sum(axis=-1)


def listwise_kl(
    student_scores: Float[Array, "*batch items"],
    teacher_scores: Float[Array, "*batch items"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return ListNet's loss, the KL of the probabilities that an item comes first.

    `T² Σ_i p (log p − log q)` over the items i of a list, with
    `p = softmax(teacher_scores / T)` and `q = softmax(student_scores / T)`; T = 1 is
    ListNet's, less the teacher's entropy, which has no gradient in the student.

    Published weight: 1.
    Use when both sides score the same list of items and the teacher's scores are
    known.

    Args:
      student_scores: `[..., items]`, any leading axes.
      teacher_scores: `[..., items]`, the same shape.
      temperature: `T > 0`.
      where: booleans that broadcast to the scores; False masks an item, as in a list
        that is padded.

    Returns:
      `[...]`, one value per list; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> listwise_kl(jnp.zeros((1, 2)), jnp.array([[99.0, 0.0]])).round(4)
    Array([0.6931], dtype=float32)

    Cao et al., ListNet, 2007:
    https://www.microsoft.com/en-us/research/publication/learning-to-rank-from-pairwise-approach-to-listwise-approach/
    """
    name = "listwise_kl"
    student, teacher = jnp.asarray(student_scores), jnp.asarray(teacher_scores)
    checks.logits(name, student_scores=student, teacher_scores=teacher)
    q, p, temperature = tempered_pair(name, student, teacher, temperature, where)
    return temperature**2 * kl(p.probs, q.probs, log_ratio(p, q))


def margin_mse(
    student_pos: Float[Array, "*batch"],
    student_neg: Float[Array, "*batch"],
    teacher_pos: Float[Array, "*batch"],
    teacher_neg: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Return the squared difference of the margins between two documents.

    `((s⁺ − s⁻) − (t⁺ − t⁻))²` with s the student's and t the teacher's score of a
    relevant (⁺) and of another (⁻) document: the scales of the scores may differ by a
    constant.

    Published weight: 1.
    Use when a small retrieval model learns from a large ranker on triples of a query
    and two documents.

    Args:
      student_pos: `[batch]`, or any shape.
      student_neg: the same shape.
      teacher_pos: the same shape.
      teacher_neg: the same shape.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if the shapes differ or a dtype is not floating.

    >>> one, two = jnp.array([1.0]), jnp.array([2.0])
    >>> margin_mse(two, one, one, one)
    Array([1.], dtype=float32)

    Hofstätter et al., 2020: https://arxiv.org/abs/2010.02666
    """
    scores = {
        "student_pos": jnp.asarray(student_pos),
        "student_neg": jnp.asarray(student_neg),
        "teacher_pos": jnp.asarray(teacher_pos),
        "teacher_neg": jnp.asarray(teacher_neg),
    }
    checks.floating("margin_mse", **scores)
    checks.same_shape("margin_mse", **scores)
    s_pos, s_neg, t_pos, t_neg = upcast(*scores.values())
    return squared_difference(saturated(s_pos - s_neg), saturated(t_pos - t_neg))
