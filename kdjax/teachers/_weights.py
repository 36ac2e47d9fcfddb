"""How much each of several teachers counts: weights for the means.

Each returns weights that sum to 1 over the teachers that are `usable`, and 0 for the
others; `mean_probabilities(logits, weights)` takes them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import checks
from kdjax.teachers._means import Logits, cleaned, stacked_logits


def entropy_weights(logits: Logits) -> Array:
    """Return weights that are larger where a teacher's entropy is lower.

    `w_k = (1 − softmax_k(H_k)) / (K − 1)` over the K usable teachers, with the entropy
    `H_k = −Σ_c p_k log p_k` of each example; 1 for K = 1.

    Args:
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.

    Returns:
      `[teachers, batch, ...]`; of a sure and an undecided teacher between two classes
      the sure one gets 2/3.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: after Kwon et al., "Adaptive knowledge distillation based on entropy"
    (ICASSP 2020, https://doi.org/10.1109/ICASSP40776.2020.9054698), who prefer the
    lower entropy; in the form of `confidence_weights`, finite at entropy 0.

    >>> entropy_weights(jnp.array([[[9.0, 0.0]], [[0.0, 0.0]]])).shape
    (2, 1)
    """
    stacked, kept = cleaned(stacked_logits("entropy_weights", logits))
    log_p = jax.nn.log_softmax(stacked)
    p = jnp.exp(log_p)
    entropy = -(p * jnp.where(p > 0, log_p, 0)).sum(-1)
    return _inverted(entropy, kept[..., 0])


def confidence_weights(logits: Logits, labels: Array) -> Array:
    """Return weights that are larger where a teacher is nearer to the label.

    `w_k = (1 − softmax_k(CE_k)) / (K − 1)` over the K usable teachers, with the cross
    entropy `CE_k = −log p_k[y]` of each example; 1 for K = 1.

    Args:
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.
      labels: `[batch, ...]`, integer class numbers y; where one is no class all
        teachers are equally near.

    Returns:
      `[teachers, batch, ...]`.

    Raises:
      ValueError: if a shape or dtype is not as above.

    Source: Zhang, Chen and Wang, "Confidence-aware multi-teacher knowledge
    distillation", https://arxiv.org/abs/2201.00007 (2022).

    >>> logits = jnp.array([[[9.0, 0.0]], [[0.0, 0.0]]])
    >>> confidence_weights(logits, jnp.array([0]))[:, 0].tolist()  # doctest: +ELLIPSIS
    [0.666..., 0.333...]
    """
    error, kept = _cross_entropy("confidence_weights", logits, labels)
    return _inverted(error, kept)


def best_weights(logits: Logits, labels: Array) -> Array:
    """Return 1 for the teacher that is nearest to the label of each example, else 0.

    The nearest by cross entropy; the first of several equal ones.

    Args:
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.
      labels: `[batch, ...]`, integer class numbers; where one is no class all teachers
        are equally near.

    Returns:
      `[teachers, batch, ...]`.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> logits = jnp.array([[[9.0, 0.0]], [[0.0, 0.0]]])
    >>> best_weights(logits, jnp.array([1]))
    Array([[0.],
           [1.]], dtype=float32)
    """
    error, kept = _cross_entropy("best_weights", logits, labels)
    best = jnp.where(kept, error, jnp.inf).argmin(axis=0)
    chosen = jax.nn.one_hot(best, len(error), axis=0, dtype=error.dtype)
    return jnp.where(kept, chosen, 0)


def random_weights(key: Array, logits: Logits) -> Array:
    """Return 1 for one usable teacher drawn at random, else 0.

    `drawn` runs only the teacher that it draws, a new one every step; these weights are
    for teachers that have all said something already.

    Args:
      key: a random key.
      logits: `[teachers, ..., classes]`, or a sequence of `[..., classes]`.

    Returns:
      `[teachers]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    >>> float(random_weights(jax.random.key(0), jnp.zeros((3, 2, 4))).sum())
    1.0
    """
    stacked, kept = cleaned(stacked_logits("random_weights", logits))
    kept = kept.reshape(-1)
    which = jax.random.categorical(key, jnp.where(kept, 0.0, -jnp.inf))
    return jnp.where(kept, jax.nn.one_hot(which, len(kept), dtype=stacked.dtype), 0)


def gradient_weights(
    student_logits: Array,
    logits: Logits,
    *,
    temperature: float | Array = 4.0,
    most: float = 0.6,
) -> Array:
    """Return the weights whose combined gradient favours no teacher over another.

    The α that minimises `½ ‖Σ_k α_k g_k‖²` where `Σ_k α_k = 1` and `0 ≤ α_k ≤ C`, with
    the gradients `g_k = T (softmax(z/T) − softmax(z_k/T))` of the soft targets of the
    batch by the student's logits: a step along it helps the student with all teachers,
    as far as C allows. Found by moving weight between pairs of teachers, exactly for
    two. No gradient passes the weights.

    Args:
      student_logits: `[batch, ..., classes]`.
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.
      temperature: T > 0.
      most: C in (0, 1]; what is less than 1/K counts as 1/K.

    Returns:
      `[teachers]`.

    Raises:
      ValueError: if a shape, dtype or number is not as above.

    Source: Du et al., "Agree to disagree: adaptive ensemble knowledge distillation in
    gradient space" (NeurIPS 2020).

    >>> student = jnp.array([[0.0, 0.0]])
    >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    >>> float(gradient_weights(student, logits)[0].round(3))
    0.5
    """
    checks.positive("gradient_weights", temperature=temperature, most=most)
    checks.fraction("gradient_weights", most=most)
    stacked, kept = cleaned(stacked_logits("gradient_weights", logits))
    checks.logits("gradient_weights", student_logits=student_logits, logits=stacked[0])
    wide = student_logits[None].astype(stacked.dtype)
    student, stacked = jax.lax.stop_gradient((wide, stacked))
    q, p = (jax.nn.softmax(z / temperature) for z in (student, stacked))
    gradients = (temperature * (q - p)).reshape(len(stacked), -1)
    gram = jnp.matmul(gradients, gradients.T, precision="highest")
    return _least_norm(gram, kept.reshape(-1), most)


def _least_norm(gram: Array, kept: Array, most: float) -> Array:
    """Minimise `½ αᵀ G α` on the simplex with no weight above `most`, pair by pair."""
    number = jnp.maximum(kept.sum(), 1)
    cap = jnp.where(kept, jnp.maximum(most, 1 / number), 0).astype(gram.dtype)
    start = jnp.where(kept, 1 / number, 0).astype(gram.dtype)

    def move(_: Any, alpha: Array) -> Array:
        slope = gram @ alpha
        to = jnp.where(alpha < cap, slope, jnp.inf).argmin()
        out = jnp.where(alpha > 0, slope, -jnp.inf).argmax()
        curve = gram[to, to] + gram[out, out] - 2 * gram[to, out]
        best = (slope[out] - slope[to]) / jnp.where(curve > 0, curve, 1)
        room = jnp.minimum(cap[to] - alpha[to], alpha[out])
        step = jnp.where(curve > 0, jnp.clip(best, 0, room), 0)
        return alpha.at[to].add(step).at[out].add(-step)

    return jax.lax.fori_loop(0, 20 * len(gram), move, start)


def _cross_entropy(function: str, logits: Logits, labels: Array) -> tuple[Array, Array]:
    """Return `[teachers, batch, ...]` of it, and which teachers are usable."""
    stacked, kept = cleaned(stacked_logits(function, logits))
    labels = jnp.asarray(labels)
    checks.labels(function, labels, stacked[0])
    log_p = jax.nn.log_softmax(stacked)
    known = (labels >= 0) & (labels < log_p.shape[-1])
    at = jnp.where(known, labels, 0)[None, ..., None]
    at = jnp.broadcast_to(at, (*log_p.shape[:-1], 1))
    error = -jnp.take_along_axis(log_p, at, axis=-1)[..., 0]
    error = jnp.where(known[None], jnp.minimum(error, 1e30), 0)  # −inf is legal
    return error, kept[..., 0]


def _inverted(error: Array, kept: Array) -> Array:
    """`(1 − softmax_k(error)) / (K − 1)` over the teachers that are kept."""
    number = kept.sum(axis=0, keepdims=True)
    share = jax.nn.softmax(error, axis=0, where=kept)
    weights = (1 - share) / jnp.maximum(number - 1, 1)
    return jnp.where(kept, jnp.where(number > 1, weights, 1.0), 0)
