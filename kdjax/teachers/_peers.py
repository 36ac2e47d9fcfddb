"""Networks that teach each other, know different classes, or answer together."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks
from kdjax.teachers._means import Logits, stacked_logits, usable

Loss = Callable[[Array, Array], Array]


def each_other(logits: Logits, loss: Loss) -> Array:
    """Return how far each of N students is from the others: mutual learning.

    `1/(N − 1) Σ_{j ≠ i} loss(z_i, z_j)`, where no gradient passes `z_j`: each student
    learns from the others, and moves none of them. 0 for N = 1.

    Args:
      logits: `[students, batch, ..., classes]` of an `ensemble` with `combine=None`,
        or a sequence of `[batch, ..., classes]`.
      loss: `loss(student, teacher) -> [...]` over leading axes, unreduced; KL as
        published: `losses.soft_target_kl`.

    Returns:
      `[students, batch, ...]`. The loss of a student is its mean over the batch; all
      of them are trained by the sum over students.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: Zhang, Xiang, Hospedales and Lu, "Deep mutual learning",
    https://arxiv.org/abs/1706.00384 (2018).

    >>> from kdjax import losses
    >>> logits = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    >>> each_other(logits, losses.soft_target_kl).round(3)
    Array([[0.231],
           [0.231],
           [0.462]], dtype=float32)
    """
    stacked = stacked_logits("each_other", logits)
    number = len(stacked)
    if number == 1:
        return jnp.zeros(stacked.shape[:-1], stacked.dtype)
    # [students, students - 1]: at equality with itself a loss may have no slope.
    places = np.arange(number)
    others = np.array([np.delete(places, place) for place in places])
    taught_by = jax.lax.stop_gradient(stacked)[others]
    own = jnp.broadcast_to(stacked[:, None], taught_by.shape)
    return loss(own, taught_by).mean(axis=1)


def own_classes(
    student_logits: Array,
    teacher_logits: Sequence[Array],
    classes: Sequence[Sequence[int]],
    loss: Loss,
) -> Array:
    """Return the distance to teachers that each know some of the student's classes.

    The mean over teachers of `loss(z[..., classes_k], z_k)`: each is matched on its own
    classes, as if there were no others. Teachers that are not `usable` are left out.

    Args:
      student_logits: `[batch, ..., classes]`.
      teacher_logits: one `[batch, ..., known_k]` for each teacher, as a `mixture` with
        `combine=None` gives them.
      classes: for each teacher, which of the student's classes its logits are, all
        different; teachers may share classes.
      loss: `loss(student, teacher) -> [batch, ...]`, unreduced.

    Returns:
      `[batch, ...]`.

    Raises:
      ValueError: if numbers of teachers differ, a class is not the student's or named
        twice by one teacher, or logits do not fit the classes.

    Source: Vongkulbhisal, Vinayavekhin and Visentini-Scarzanella, "Unifying
    heterogeneous classifiers with distillation", https://arxiv.org/abs/1904.06062
    (2019).

    >>> from kdjax import losses
    >>> student = jnp.array([[1.0, 0.0, 5.0, 7.0]])
    >>> known = (jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]))
    >>> own_classes(student, known, ((0, 1), (2, 3)), losses.soft_target_kl)
    Array([0.], dtype=float32)
    """
    checks.logits("own_classes", student_logits=student_logits)
    classes = [np.asarray(own).tolist() for own in classes]
    _check_classes(student_logits, teacher_logits, classes)
    total, count = jnp.zeros(student_logits.shape[:-1]), jnp.zeros(())
    for known, own in zip(teacher_logits, classes, strict=True):
        kept = usable(known[None])[0]
        own_part = student_logits[..., np.asarray(own)]
        total += jnp.where(kept, loss(own_part, jnp.where(kept, known, 0)), 0)
        count += kept
    return total / jnp.where(count > 0, count, jnp.nan)


def _check_classes(
    student_logits: Array,
    teacher_logits: Sequence[Array],
    classes: Sequence[Sequence[int]],
) -> None:
    if len(teacher_logits) != len(classes) or not len(classes):
        raise ValueError(
            "own_classes: needs the classes of each of one or more teachers, got "
            f"{len(teacher_logits)} teachers and {len(classes)} lists of classes"
        )
    number = student_logits.shape[-1]
    for k, (known, own) in enumerate(zip(teacher_logits, classes, strict=True)):
        wanted = (*student_logits.shape[:-1], len(own))
        if len(set(own)) < len(own) or not set(own) <= set(range(number)):
            raise ValueError(
                f"own_classes: the classes of teacher {k} must be different ones in "
                f"[0, {number}), got {list(own)}"
            )
        if known.shape != wanted:
            raise ValueError(
                f"own_classes: logits of teacher {k} must be {list(wanted)}, one for "
                f"each of its classes; got {list(known.shape)}"
            )


def cascade(
    student_logits: Array, teacher_logits: Array, threshold: float | Array
) -> tuple[Array, Array]:
    """Return the student's answer where it is confident, else the teacher's.

    Args:
      student_logits: `[batch, ..., classes]`, of the small model.
      teacher_logits: the same of the large one.
      threshold: in [0, 1]; the teacher is asked where the student's largest probability
        is less, or no number.

    Returns:
      Logits `[batch, ..., classes]`, and where the teacher is asked, booleans
      `[batch, ...]`: an example costs the student's FLOPs, and where it is asked the
      teacher's, too.

    Raises:
      ValueError: if shapes differ or the threshold is outside [0, 1].

    >>> student = jnp.array([[4.0, 0.0], [0.0, 0.1]])
    >>> teacher = jnp.array([[0.0, 9.0], [9.0, 0.0]])
    >>> cascade(student, teacher, 0.9)[1]
    Array([False,  True], dtype=bool)
    """
    logits = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    checks.logits("cascade", **logits)
    checks.fraction("cascade", threshold=threshold)
    asked = ~(jax.nn.softmax(student_logits).max(-1) >= threshold)
    return jnp.where(asked[..., None], teacher_logits, student_logits), asked
