"""Squared errors: on logits, on probabilities, and on the outputs of regressors."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar, squared_difference, upcast
from kdjax.losses._softmax import tempered_pair


def _per_example(function: str, **arrays: Array) -> list[Array]:
    """Check arrays of `[batch]` or `[batch, dim]`; return them as `[batch, dim]`."""
    checks.floating(function, **arrays)
    checks.same_shape(function, **arrays)
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or 0 in array.shape[1:]:
            raise ValueError(
                f"{function}: {name} must be [batch] or [batch, dim], "
                f"got {list(array.shape)}"
            )
    return [a if a.ndim == 2 else a[:, None] for a in upcast(*arrays.values())]


def logit_mse(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
    """Return the mean squared difference of the logits.

    `mean_c (z_s − z_t)²` with `z_s` the student's and `z_t` the teacher's logits.

    Use when the logits themselves carry the signal, or as the limit of high
    temperature.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if the shapes differ or a dtype is not floating.

    >>> logit_mse(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
    Array([5.], dtype=float32)

    Ba and Caruana, 2014: https://arxiv.org/abs/1312.6184
    """
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    checks.logits("logit_mse", student_logits=student, teacher_logits=teacher)
    return squared_difference(*upcast(student, teacher)).mean(axis=-1)


def probability_mse(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    *,
    temperature: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Return the squared distance of the class probabilities, in [0, 2].

    `Σ_c (q − p)²` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`: the Brier score with the teacher's
    probabilities in place of the outcome.

    Use when a bounded, symmetric loss of the probabilities is wanted.
    Published weight: 1.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_logits: `[..., classes]`, the same shape.
      temperature: `T > 0`.

    Returns:
      `[...]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> probability_mse(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]]))
    Array([2.], dtype=float32)

    Brier, 1950: https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    student, teacher, _ = tempered_pair(
        "probability_mse", student_logits, teacher_logits, temperature
    )
    return jnp.square(student.probs - teacher.probs).sum(axis=-1)


def bounded_regression(
    student: Float[Array, "batch *dim"],
    teacher: Float[Array, "batch *dim"],
    targets: Float[Array, "batch *dim"],
    *,
    margin: Scalar = 0.0,
) -> Float[Array, " batch"]:
    """Return the student's squared error where it is not better than the teacher's.

    `‖s − y‖²` where it exceeds `‖t − y‖² − m`, else 0: a teacher that regresses is an
    upper bound to beat, not a target.

    Use when a regressor's teacher is noisy: it only counts until the student is better.
    Published weight: 0.5.

    Args:
      student: `[batch, dim]` or `[batch]`, the student's prediction s.
      teacher: the same shape, the teacher's prediction t.
      targets: the same shape, the ground truth y.
      margin: m, by how much the student has to beat the teacher.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher, targets = jnp.array([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]])
    >>> bounded_regression(student, teacher, targets)
    Array([0., 9.], dtype=float32)

    Chen et al., 2017:
    https://papers.nips.cc/paper/2017/hash/e1e32e235eee1f970470a3a6658dfdd5-Abstract.html
    """
    name = "bounded_regression"
    student, teacher, targets = _per_example(
        name,
        student=jnp.asarray(student),
        teacher=jnp.asarray(teacher),
        targets=jnp.asarray(targets),
    )
    margin = scalar(name, "margin", margin, like=student)
    error = squared_difference(student, targets).sum(axis=-1)
    bound = squared_difference(teacher, targets).sum(axis=-1) - margin
    return jnp.where(error > bound, error, 0.0)


def regression_mse(
    student: Float[Array, "batch *dim"],
    teacher: Float[Array, "batch *dim"],
) -> Float[Array, " batch"]:
    """Return the mean squared difference of two predictions.

    `mean_d (s − t)²` with s the student's and t the teacher's prediction.

    Use when the outputs are real numbers.
    Published weight: 1.

    Args:
      student: `[batch, dim]` or `[batch]`.
      teacher: the same shape.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if the shapes differ or a dtype is not floating.

    >>> regression_mse(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
    Array([5.], dtype=float32)

    Saputra et al., 2019: https://arxiv.org/abs/1908.00858
    """
    student, teacher = _per_example(
        "regression_mse", student=jnp.asarray(student), teacher=jnp.asarray(teacher)
    )
    return squared_difference(student, teacher).mean(axis=-1)
