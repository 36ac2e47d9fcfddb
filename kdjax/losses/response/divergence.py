"""Divergences between the tempered class distributions of student and teacher."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses._arrays import Scalar
from kdjax.losses._softmax import (
    cross_entropy,
    kl,
    log_ratio,
    tempered_pair,
)


def soft_target_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return Hinton's distillation loss, KL from the teacher to the student.

    `T² Σ_c p (log p − log q)` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`; T² keeps the gradient's size when T changes.

    Use when student and teacher share their classes: the default, and the hardest to
    beat.
    Published weight: 0.9 beside 0.1 for the labels, at T = 4.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> soft_target_kl(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]]))
    Array([0.], dtype=float32)

    Hinton, Vinyals and Dean, 2015: https://arxiv.org/abs/1503.02531
    """
    student, teacher, temperature = tempered_pair(
        "soft_target_kl", student_logits, teacher_logits, temperature, where
    )
    ratio = log_ratio(teacher, student)
    return temperature**2 * kl(teacher.probs, student.probs, ratio)


def soft_target_cross_entropy(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the cross-entropy of the student under the teacher's soft targets.

    `−T² Σ_c p log q` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`: `soft_target_kl` plus T² times the teacher's
    entropy, hence with the same gradient in the student.

    Use when the value has to be a cross-entropy; its gradient in the student is that of
    `soft_target_kl`.
    Published weight: 0.9 beside 0.1 for the labels, at T = 4.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> soft_target_cross_entropy(jnp.zeros((1, 2)), jnp.zeros((1, 2))).round(4)
    Array([0.6931], dtype=float32)

    Hinton, Vinyals and Dean, 2015: https://arxiv.org/abs/1503.02531
    """
    student, teacher, temperature = tempered_pair(
        "soft_target_cross_entropy", student_logits, teacher_logits, temperature, where
    )
    return temperature**2 * cross_entropy(teacher, student)


def reverse_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the KL from the student to the teacher, which seeks a mode.

    `T² Σ_c q (log q − log p)` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`.

    Use when the student is too small to cover all that the teacher says and should be
    right where it speaks (language models).
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> reverse_kl(jnp.array([[0.0, 0.0]]), jnp.array([[80.0, 0.0]])).round(4)
    Array([39.3069], dtype=float32)

    Gu et al., MiniLLM, 2023: https://arxiv.org/abs/2306.08543
    """
    student, teacher, temperature = tempered_pair(
        "reverse_kl", student_logits, teacher_logits, temperature, where
    )
    ratio = log_ratio(student, teacher)
    return temperature**2 * kl(student.probs, teacher.probs, ratio)


def total_variation(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the total variation distance of teacher and student, in [0, 1].

    `½ Σ_c |p − q|` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`.

    Use when single outliers must not rule the loss: it is bounded and symmetric.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> total_variation(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 0.0]]))
    Array([0.5], dtype=float32)

    Wen et al., f-distill, 2023: https://arxiv.org/abs/2307.15190
    """
    student, teacher, _ = tempered_pair(
        "total_variation", student_logits, teacher_logits, temperature, where
    )
    return 0.5 * jnp.abs(teacher.probs - student.probs).sum(axis=-1)
