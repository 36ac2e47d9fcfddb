"""What a teacher says, transformed: other logits, targets made of them or of labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar, standardized, upcast
from kdjax.losses._softmax import FLOOR, kl, log_ratio, log_softmax


def standardize_logits(
    logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
    """Return logits of zero mean and unit deviation per example; not a loss.

    `(z − mean) / (1e-7 + std)` over the classes, with the unbiased std (C − 1). Given
    to both sides of a loss it frees the student from matching the teacher's scale. A
    constant row maps to 0, with zero gradient.

    Use when student and teacher differ much in capacity, and so in the scale of their
    logits.
    Published weight: the loss that it is given to weighs 9, at T = 2.

    Args:
      logits: `[..., classes]`, any leading axes.

    Returns:
      `[..., classes]`, the standardised logits: there is nothing to average, the
      `.mean()` of the loss they are given to is the published one.

    Raises:
      ValueError: if the logits are not floating or have no class.

    >>> logits = jnp.array([[1e4, 1e4 + 1, 1e4 + 2], [5.0, 5.0, 5.0]])
    >>> standardize_logits(logits).round(4)
    Array([[-1.,  0.,  1.],
           [ 0.,  0.,  0.]], dtype=float32)

    Sun et al., 2024: https://arxiv.org/abs/2403.01427
    """
    logits = jnp.asarray(logits)
    checks.logits("standardize_logits", logits=logits)
    [wide] = upcast(logits)
    return standardized(wide, axis=(-1,), epsilon=1e-7)


def progressive_targets(
    past_logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    amount: Scalar,
) -> Float[Array, "*batch classes"]:
    """Return targets between the labels and one's own past predictions; not a loss.

    `(1 − a)·onehot(y) + a·softmax(z)` with z the logits of an earlier state of the
    same network, to be given to `optax.softmax_cross_entropy`.

    Use when there is no teacher but the student's own past.
    Published weight: the amount grows linearly to 0.8 at the last epoch.

    Args:
      past_logits: `[..., classes]`, z.
      labels: `[...]`, integer class numbers y.
      amount: a in [0, 1], usually growing with the epochs.

    Returns:
      `[..., classes]`, probabilities; `.mean()` of the cross-entropy with them is the
      published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> progressive_targets(jnp.zeros((1, 2)), jnp.array([0]), amount=0.5)
    Array([[0.75, 0.25]], dtype=float32)

    Kim et al., PS-KD, 2021: https://arxiv.org/abs/2006.12000
    """
    past_logits, labels = jnp.asarray(past_logits), jnp.asarray(labels)
    checks.logits("progressive_targets", past_logits=past_logits)
    checks.labels("progressive_targets", labels, past_logits)
    checks.fraction("progressive_targets", amount=amount)
    [past] = upcast(past_logits)
    amount = scalar("progressive_targets", "amount", amount, like=past)
    onehot = jax.nn.one_hot(labels, past.shape[-1], dtype=past.dtype)
    return (1.0 - amount) * onehot + amount * log_softmax(past).probs


def virtual_teacher(
    labels: Int[Array, "*batch"],
    num_classes: int,
    *,
    correct: Scalar = 0.99,
) -> Float[Array, "*batch {num_classes}"]:
    """Return the logits of a teacher made by hand from the labels; not a loss.

    `log p` with `p_y = correct` and the rest shared equally by the other classes. A
    probability of 0 is given the logit −1e30.

    Use when there is no teacher at all.
    Published weight: 0.1 of the labels', at T = 20.

    Args:
      labels: `[...]`, integer class numbers y.
      num_classes: the number of classes.
      correct: the probability in [0, 1] of the label.

    Returns:
      `[..., num_classes]`, logits in the default float type; `.mean()` of the loss
      they are given to as the teacher's is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> jnp.exp(virtual_teacher(jnp.array([1]), 3, correct=0.5)).round(4)
    Array([[0.25, 0.5 , 0.25]], dtype=float32)

    Yuan et al., Tf-KD, 2020: https://arxiv.org/abs/1909.11723
    """
    if num_classes < 1:
        raise ValueError(f"virtual_teacher: num_classes must be > 0, got {num_classes}")
    labels = jnp.asarray(labels)
    logits = jnp.zeros((*labels.shape, num_classes))
    checks.labels("virtual_teacher", labels, logits)
    checks.fraction("virtual_teacher", correct=correct)
    correct = scalar("virtual_teacher", "correct", correct, like=logits)
    target = jax.nn.one_hot(labels, num_classes, dtype=bool)
    probs = jnp.where(target, correct, (1.0 - correct) / max(num_classes - 1, 1))
    return jnp.where(probs > 0, jnp.log(jnp.where(probs > 0, probs, 1.0)), FLOOR)


def transformed_teacher_matching(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    power: Scalar = 0.1,
    weighted: bool = False,
) -> Float[Array, "*batch"]:
    """Return the KL from the power-transformed teacher to the untempered student.

    `KL(p1^γ / U ‖ q1)`, `U = Σ_c p1^γ`, with `p1 = softmax(teacher_logits)` and
    `q1 = softmax(student_logits)`; `weighted` multiplies by U, which is large where
    the teacher is smooth. The least value 0 is at `q1 = p1^γ / U`.

    Use when tempering the student too costs accuracy: only the teacher is smoothed.
    Published weight: 1 beside 1 for the labels.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      power: `γ > 0`, the inverse of a temperature on the teacher's side alone.
      weighted: whether to weigh each example by U (WTTM).

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0]])
    >>> transformed_teacher_matching(student, teacher, power=0.5)
    Array([0.], dtype=float32)

    Zheng and Yang, 2024: https://arxiv.org/abs/2402.11148
    """
    name = "transformed_teacher_matching"
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    checks.logits(name, student_logits=student, teacher_logits=teacher)
    checks.positive(name, power=power)
    student, teacher = upcast(student, teacher)
    power = scalar(name, "power", power, like=student)
    q = log_softmax(student)
    p = log_softmax(teacher, 1.0 / power)
    divergence = kl(p.probs, q.probs, log_ratio(p, q))
    if not weighted:
        return divergence
    mass = jnp.exp(p.log_norm - power * log_softmax(teacher).log_norm)
    return mass[..., 0] * divergence
