"""Divergences of tempered class probabilities from a mixture of both sides."""

from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar
from kdjax.losses._softmax import (
    kl_to_mixture,
    tempered_pair,
)


def jensen_shannon(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    beta: Scalar = 0.5,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the generalised Jensen–Shannon divergence of teacher and student.

    `T² [β KL(p ‖ m) + (1 − β) KL(q ‖ m)]`, `m = βp + (1 − β)q`, with
    `p = softmax(teacher_logits / T)` and `q = softmax(student_logits / T)`. It is 0 at
    β = 0 and β = 1 and continuous there; divided by β (or 1 − β) it tends to the
    forward (or reverse) KL.

    Use when neither covering nor seeking is wanted alone: β moves between them.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      beta: the teacher's weight β in [0, 1].
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> jensen_shannon(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])).round(4)
    Array([0.6931], dtype=float32)

    Agarwal et al., GKD, 2023: https://arxiv.org/abs/2306.13649
    """
    student, teacher, temperature = tempered_pair(
        "jensen_shannon", student_logits, teacher_logits, temperature, where
    )
    checks.fraction("jensen_shannon", beta=beta)
    beta = scalar("jensen_shannon", "beta", beta, like=temperature)
    from_teacher = kl_to_mixture(teacher, student, beta)
    from_student = kl_to_mixture(student, teacher, 1.0 - beta)
    return temperature**2 * (beta * from_teacher + (1.0 - beta) * from_student)


def skew_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    skew: Scalar = 0.1,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the KL from the teacher to a mixture of teacher and student.

    `T² KL(p ‖ λp + (1 − λ)q)` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`; λ = 0 is `soft_target_kl`.

    Use when `soft_target_kl` gives gradients that are too large where the student has
    no probability.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      skew: the teacher's share λ in [0, 1] of the mixture.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> skew_kl(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])).round(4)
    Array([2.3026], dtype=float32)

    Ko et al., DistiLLM, 2024: https://arxiv.org/abs/2402.03898
    """
    student, teacher, temperature = tempered_pair(
        "skew_kl", student_logits, teacher_logits, temperature, where
    )
    checks.fraction("skew_kl", skew=skew)
    skew = scalar("skew_kl", "skew", skew, like=temperature)
    return temperature**2 * kl_to_mixture(teacher, student, skew)


def skew_reverse_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    skew: Scalar = 0.1,
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Return the KL from the student to a mixture of student and teacher.

    `T² KL(q ‖ (1 − λ)p + λq)` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`; λ = 0 is `reverse_kl`.

    Use when `reverse_kl` is wanted with bounded gradients.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      skew: the student's share λ in [0, 1] of the mixture.
      temperature: `T > 0`.
      where: booleans that broadcast to the logits; False masks a class.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> skew_reverse_kl(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])).round(4)
    Array([2.3026], dtype=float32)

    Ko et al., DistiLLM, 2024: https://arxiv.org/abs/2402.03898
    """
    student, teacher, temperature = tempered_pair(
        "skew_reverse_kl", student_logits, teacher_logits, temperature, where
    )
    checks.fraction("skew_reverse_kl", skew=skew)
    skew = scalar("skew_reverse_kl", "skew", skew, like=temperature)
    return temperature**2 * kl_to_mixture(student, teacher, skew)
