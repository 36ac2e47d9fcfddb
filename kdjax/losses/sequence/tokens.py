"""Losses of tokens and frames, and which layers follow which."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import checks
from kdjax.losses._arrays import Scalar, upcast
from kdjax.losses._maps import adaptive_bins, adaptive_pool
from kdjax.losses._softmax import FLOOR, kl, log_softmax
from kdjax.losses.response import soft_target_kl


def _check_stored(name: str, student: Array, log_probs: Array, ids: Array) -> None:
    checks.logits(name, student_logits=student)
    checks.floating(name, teacher_log_probs=log_probs)
    if "int" not in ids.dtype.name:
        raise ValueError(
            f"{name}: teacher_ids must be integer class numbers, got {ids.dtype}"
        )
    checks.same_shape(name, teacher_log_probs=log_probs, teacher_ids=ids)
    classes = student.shape[-1]
    stored = log_probs.shape[-1] if log_probs.ndim else 0
    if log_probs.shape[:-1] != student.shape[:-1] or not 0 < stored <= classes:
        raise ValueError(
            f"{name}: teacher_log_probs must be [..., k] with the leading axes of "
            f"student_logits [..., classes] and k from 1 to classes, got "
            f"{list(log_probs.shape)} and {list(student.shape)}"
        )


def _log_rest(log_probs: Array) -> Array:
    """`log(1 − Σ exp)` over the last axis; `FLOOR` where nothing is left."""
    stored = log_probs.shape[-1]
    is_largest = jax.nn.one_hot(log_probs.argmax(axis=-1), stored, dtype=bool)
    # 1 − exp of the largest has all its digits as expm1: what is left may be small
    parts = jnp.where(is_largest, -jnp.expm1(log_probs), -jnp.exp(log_probs))
    rest = parts.sum(axis=-1, keepdims=True)
    some = rest > 0  # rounding may have stored more than all
    return jnp.where(some, jnp.log(jnp.where(some, rest, 1.0)), FLOOR)


def top_k_kl(
    student_logits: Float[Array, "*batch classes"],
    teacher_log_probs: Float[Array, "*batch stored"],
    teacher_ids: Int[Array, "*batch stored"],
    *,
    tail: bool = True,
) -> Float[Array, "*batch"]:
    """Return KL to the student from the k classes stored of a teacher's output.

    `Σ_{c ∈ stored} p_c (log p_c − log q_c) + r (log r − log u)` with p the teacher's
    stored probabilities, `q = softmax(student_logits)`, and with `tail` one bucket for
    all other classes: `r = 1 − Σ p_c` and `u = 1 − Σ q_c`. Without it the student's
    mass on other classes costs nothing, and the sum may be negative. Where all classes
    are stored there is no tail, and the value is that of `soft_target_kl`.

    Published weight: 1.
    Use when a teacher is too large to run beside the student, or to store the outputs
    of: keep the k largest of each token.

    Args:
      student_logits: `[..., classes]`, any leading axes.
      teacher_log_probs: `[..., k]`, log-probabilities at temperature 1, as
        `jax.lax.top_k` of a log-softmax gives them; −inf is probability 0.
      teacher_ids: `[..., k]`, which classes they are, all different. What is no
        class, such as −1, is an empty place.
      tail: whether the rest of the mass counts as one class.

    Returns:
      `[...]`, one value per token; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> log_probs, ids = jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[2, 0]])
    >>> top_k_kl(jnp.zeros((1, 4)), log_probs, ids).round(4)
    Array([0.1733], dtype=float32)

    Agarwal et al., GKD, 2023: https://arxiv.org/abs/2306.13649
    """
    name = "top_k_kl"
    student, log_p = jnp.asarray(student_logits), jnp.asarray(teacher_log_probs)
    ids = jnp.asarray(teacher_ids)
    _check_stored(name, student, log_p, ids)
    student, log_p = upcast(student, log_p)
    classes = student.shape[-1]
    legal = (ids >= 0) & (ids < classes)
    log_p = jnp.where(log_p > 0, 0.0, jnp.maximum(log_p, FLOOR))
    log_p = jnp.where(legal, log_p, FLOOR)
    softmax = log_softmax(student)
    at_ids = jnp.where(legal, ids, 0)
    log_q = jnp.take_along_axis(softmax.log_probs, at_ids, axis=-1)
    log_q = jnp.where(legal, log_q, FLOOR)
    if not tail or log_p.shape[-1] == classes:
        return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    others = jnp.put_along_axis(
        jnp.ones(student.shape, bool),
        jnp.where(legal, ids, classes),
        False,
        axis=-1,
        inplace=False,
        mode="drop",
    )
    rest = log_softmax(student, where=others)
    lower = jnp.maximum(rest.peak - softmax.peak, FLOOR)
    log_u = lower + rest.log_norm - softmax.log_norm
    log_p = jnp.concatenate([log_p, _log_rest(log_p)], axis=-1)
    log_q = jnp.concatenate([log_q, log_u], axis=-1)
    return kl(jnp.exp(log_p), jnp.exp(log_q), log_p - log_q)


def _resampled(teacher: Array, time: int, where: Array | None) -> Array:
    """Average frames over adaptive bins; those of no kept bin may hold anything."""
    lowest = jnp.finfo(teacher.dtype).min  # a weight of 0 times −inf is not 0
    if where is not None:
        bins = jnp.asarray(adaptive_bins(teacher.shape[1], time, teacher.dtype))
        looked_at = where.astype(teacher.dtype) @ bins > 0
        teacher = jnp.where(looked_at[..., None], teacher, 0.0)
    return adaptive_pool(jnp.maximum(teacher, lowest), (time,))


def ctc_frames(
    student_logits: Float[Array, "batch time classes"],
    teacher_logits: Float[Array, "batch teacher_time classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, "batch time"] | None = None,
) -> Float[Array, "batch time"]:
    """Return `soft_target_kl` frame by frame, also between different frame rates.

    `T² Σ_c p (log p − log q)` for every frame of the student. Where the teacher has
    another number of frames, its logits are averaged over adaptive bins to the
    student's: frame i of m stands for frames `floor(i n/m)` to `ceil((i+1) n/m)` of n.

    Published weight: 1.
    Use when an acoustic model (CTC or framewise) follows another one, also one that
    sees the future or subsamples time otherwise.

    Args:
      student_logits: `[batch, time, classes]`.
      teacher_logits: `[batch, teacher_time, classes]`; where `teacher_time` differs,
        both are padded to the same share of their length.
      temperature: `T > 0`.
      where: `[batch, time]` booleans, the student's frames that count.

    Returns:
      `[batch, time]`, 0 at masked frames: without a mask `.mean()` is the published
      loss, with one the sum divided by the number of frames that count.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> frames = jnp.array([[[0.0, 2.0], [2.0, 0.0]]])
    >>> ctc_frames(frames, jnp.repeat(frames, 2, axis=1))  # twice the frame rate
    Array([[0., 0.]], dtype=float32)

    Takashima et al., 2018: https://doi.org/10.1109/ICASSP.2018.8461995
    """
    name = "ctc_frames"
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    where = None if where is None else jnp.asarray(where)
    checks.floating(name, student_logits=student, teacher_logits=teacher)
    shapes = (student.shape, teacher.shape)
    same = {(shape[:1], shape[2:]) for shape in shapes}
    if any(len(shape) != 3 or 0 in shape[1:] for shape in shapes) or len(same) > 1:
        raise ValueError(
            f"{name}: logits must be [batch, time, classes] of one batch and the same "
            f"classes, got student {list(shapes[0])}, teacher {list(shapes[1])}"
        )
    checks.mask(name, where, student.shape[:2])
    if where is not None and where.shape != student.shape[:2]:
        raise ValueError(
            f"{name}: where must be [batch, time] = {list(student.shape[:2])}, got "
            f"{list(where.shape)}"
        )
    checks.positive(name, temperature=temperature)
    checks.scalar(name, temperature=temperature)
    student, teacher = upcast(student, teacher)
    if shapes[0] != shapes[1]:
        teacher = _resampled(teacher, student.shape[1], where)
    if where is not None:  # whatever a masked frame holds reaches no gradient
        student, teacher = (
            jnp.where(where[..., None], a, 0.0) for a in (student, teacher)
        )
    return soft_target_kl(student, teacher, temperature=temperature)


def align_layers(n_student: int, n_teacher: int) -> list[tuple[int, int]]:
    """Return which teacher layer each student layer follows; not a loss.

    `(i, ceil((i + 1) n_teacher / n_student) − 1)`: evenly spaced, and the last follows
    the last. Of a student with more layers than its teacher several follow one.

    Published weight: none, the losses between the layers have theirs.
    Use when student and teacher are stacks of equal layers, as transformers are.

    Args:
      n_student: number of student layers, at least 1.
      n_teacher: number of teacher layers, at least 1.

    Returns:
      `[(student, teacher), ...]`, one pair of layer numbers from 0 per student layer;
      the `.mean()` of a loss over the pairs is the published one.

    Raises:
      ValueError: if a number is not an int of at least 1.

    >>> align_layers(4, 12)
    [(0, 2), (1, 5), (2, 8), (3, 11)]

    Jiao et al., TinyBERT, 2020: https://arxiv.org/abs/1909.10351
    """
    for name, count in (("n_student", n_student), ("n_teacher", n_teacher)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"align_layers: {name} must be an int of at least 1, got {count!r}"
            )
    return [(i, -(-(i + 1) * n_teacher // n_student) - 1) for i in range(n_student)]
