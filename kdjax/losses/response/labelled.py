"""Losses that treat the labelled class apart from the others, or weigh by it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar, upcast
from kdjax.losses._softmax import (
    LogSoftmax,
    cross_entropy,
    kl,
    log_ratio,
    log_softmax,
    tempered_pair,
)


def _arrays(
    function: str, student_logits: Array, teacher_logits: Array, labels: Array
) -> tuple[Array, Array, Array]:
    """Check the arguments; return the logits and where the labels are, `[..., C]`."""
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    labels = jnp.asarray(labels)
    checks.logits(function, student_logits=student, teacher_logits=teacher)
    checks.labels(function, labels, student)
    student, teacher = upcast(student, teacher)
    target = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)
    return student, teacher, target


def _at(target: Array, values: Array) -> Float[Array, "*batch"]:
    """Return the value at the labelled class."""
    return jnp.where(target, values, 0.0).sum(axis=-1)


def _target_or_not(
    logits: Array, rest: LogSoftmax, target: Array, temperature: Array
) -> LogSoftmax:
    """Return the tempered `[p_y, 1 − p_y]`.

    It is the softmax of two logits, the label's and the log-sum-exp of the others, so
    1 − p_y keeps its digits when p_y is near 1.
    """
    others = rest.peak + temperature * rest.log_norm
    pair = jnp.stack([_at(target, logits), others[..., 0]], axis=-1)
    exists = jnp.stack([target.any(axis=-1), (~target).any(axis=-1)], axis=-1)
    return log_softmax(pair, temperature, exists)


def decoupled_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
) -> Float[Array, "*batch"]:
    """Return decoupled knowledge distillation (DKD).

    `α T² KL(b_t ‖ b_s) + β T² KL(p̂ ‖ q̂)`: `b = [p_y, 1 − p_y]` says how sure each
    side is of the label, `p̂` (teacher) and `q̂` (student) are the softmax over the
    other classes only, all at temperature T. For two classes the second term is 0.

    Use when the teacher is very sure of its labels, which silences the other classes in
    `soft_target_kl`.
    Published weight: 1 beside 1 for the labels; β is chosen per teacher, 2 to 8.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      labels: `[...]`, integer class numbers y.
      alpha: α, the weight of the target-class term.
      beta: β, the weight of the non-target-class term.
      temperature: `T > 0`.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.zeros((1, 3)), jnp.array([[4.0, 0.0, 4.0]])
    >>> decoupled_kl(student, teacher, jnp.array([0])).round(4)
    Array([14.4755], dtype=float32)

    Zhao et al., 2022: https://arxiv.org/abs/2203.08679
    """
    name = "decoupled_kl"
    student, teacher, target = _arrays(name, student_logits, teacher_logits, labels)
    checks.positive(name, temperature=temperature)
    temperature = scalar(name, "temperature", temperature, like=student)
    alpha = scalar(name, "alpha", alpha, like=student)
    beta = scalar(name, "beta", beta, like=student)
    q_rest = log_softmax(student, temperature, ~target)
    p_rest = log_softmax(teacher, temperature, ~target)
    q_pair = _target_or_not(student, q_rest, target, temperature)
    p_pair = _target_or_not(teacher, p_rest, target, temperature)
    on_target = kl(p_pair.probs, q_pair.probs, log_ratio(p_pair, q_pair))
    on_rest = kl(p_rest.probs, q_rest.probs, log_ratio(p_rest, q_rest))
    return temperature**2 * (alpha * on_target + beta * on_rest)


def normalized_kd(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    gamma: Scalar = 1.5,
    temperature: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Return normalized knowledge distillation (NKD).

    `−p1_y log q1_y − γ T² Σ_{c≠y} p̂ log q̂`: `p1` (teacher) and `q1` (student) are
    at temperature 1, `p̂` and `q̂` are the softmax over the non-target classes at T.

    Use when labels and soft targets should not compete: the label's class and the
    others are matched apart.
    Published weight: 1 beside 1 for the labels.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      labels: `[...]`, integer class numbers y.
      gamma: γ, the weight of the non-target classes.
      temperature: `T > 0`.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> logits = jnp.zeros((1, 3))
    >>> normalized_kd(logits, logits, jnp.array([0])).round(4)
    Array([1.4059], dtype=float32)

    Yang et al., 2023: https://arxiv.org/abs/2303.13005
    """
    name = "normalized_kd"
    student, teacher, target = _arrays(name, student_logits, teacher_logits, labels)
    checks.positive(name, temperature=temperature)
    temperature = scalar(name, "temperature", temperature, like=student)
    gamma = scalar(name, "gamma", gamma, like=student)
    p_target = _at(target, log_softmax(teacher).probs)
    on_target = -p_target * _at(target, log_softmax(student).log_probs)
    p_rest = log_softmax(teacher, temperature, ~target)
    q_rest = log_softmax(student, temperature, ~target)
    return on_target + gamma * temperature**2 * cross_entropy(p_rest, q_rest)


def weighted_soft_labels(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    temperature: Scalar = 2.0,
) -> Float[Array, "*batch"]:
    """Return soft-target cross-entropy, less where the student beats the teacher.

    `T² w (−Σ_c p log q)`, `w = 1 − exp(−CE_s / (CE_t + 1e-7))`, with
    `p = softmax(teacher_logits / T)`, `q = softmax(student_logits / T)` and `CE` the
    cross-entropy of the label at temperature 1. No gradient flows through `w`.

    Use when soft labels hurt examples that the student already knows better than its
    teacher.
    Published weight: 2.25 beside 1 for the labels.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      labels: `[...]`, integer class numbers.
      temperature: `T > 0`.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> logits = jnp.zeros((1, 2))
    >>> weighted_soft_labels(logits, logits, jnp.array([0])).round(4)
    Array([1.7526], dtype=float32)

    Zhou et al., 2021: https://arxiv.org/abs/2102.00650
    """
    name = "weighted_soft_labels"
    s, t, target = _arrays(name, student_logits, teacher_logits, labels)
    student, teacher, temperature = tempered_pair(name, s, t, temperature)
    ce_student = -_at(target, log_softmax(s).log_probs)
    ce_teacher = -_at(target, log_softmax(t).log_probs)
    weight = jax.lax.stop_gradient(-jnp.expm1(-ce_student / (ce_teacher + 1e-7)))
    return temperature**2 * weight * cross_entropy(teacher, student)
