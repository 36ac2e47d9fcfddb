"""Contrastive relations: an example's own teacher against the other examples'."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import checks
from kdjax.losses._arrays import Scalar, l2_normalize, scalar, upcast
from kdjax.losses._softmax import log_softmax
from kdjax.losses.relation._columns import embeddings, rows
from kdjax.losses.relation._memory import (
    arguments,
    check_vectors,
    noise_losses,
    partitions,
    scores,
    updated_memories,
)

__all__ = ["contrastive", "noise_contrastive"]


def contrastive(
    student: Float[Array, "batch dim"],
    teacher: Float[Array, "batch dim"],
    *,
    temperature: Scalar = 0.07,
    negatives: Float[Array, "extra dim"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return InfoNCE: tell an example's own teacher embedding from all others.

    `−log(exp(⟨s_i, t_i⟩/τ) / (Σ_j exp(⟨s_i, t_j⟩/τ) + Σ_k exp(⟨s_i, n_k⟩/τ)))` with s
    the student's, t the teacher's embeddings and n the extra negatives, all l2-
    normalised; j runs over the batch.

    Published weight: 0.8 (for `noise_contrastive`).
    Use when embeddings matter more than logits, in retrieval or before a new head is
    trained, and the batch is large.

    Args:
      student: `[batch, dim]`, projected to the teacher's dim first.
      teacher: `[batch, dim]`.
      temperature: `τ > 0`.
      negatives: `[extra, dim]`, more embeddings of the teacher's, commonly a memory of
        earlier batches; the same on all devices.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: rows stay local,
        columns are gathered.

    Returns:
      `[batch]`, one value per example, 0 where masked; `.mean()` is the published
      loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.eye(2), jnp.ones((2, 2))  # a teacher that tells nothing
    >>> contrastive(student, teacher).round(4)
    Array([0.6931, 0.6931], dtype=float32)

    Tian, Krishnan and Isola, CRD, 2020: https://arxiv.org/abs/1910.10699; van den
    Oord, Li and Vinyals, InfoNCE, 2018: https://arxiv.org/abs/1807.03748
    """
    name = "contrastive"
    student, teacher, where = embeddings(name, student, teacher, where)
    checks.same_shape(name, student=student, teacher=teacher)
    extra = jnp.zeros((0, teacher.shape[1]), teacher.dtype)
    extra = extra if negatives is None else jnp.asarray(negatives)
    check_vectors(name, teacher.shape[1], negatives=extra)
    checks.positive(name, temperature=temperature)
    student, teacher, extra = upcast(student, teacher, extra)
    temperature = scalar(name, "temperature", temperature, like=student)
    examples = rows(where, axis_name, student, teacher)
    anchors = l2_normalize(examples.local[0], axis=-1)
    others = jnp.concatenate([examples.columns[1], extra])
    cosines = jnp.matmul(anchors, l2_normalize(others, axis=-1).T, precision="highest")
    own = jnp.pad(examples.diagonal, ((0, 0), (0, len(extra))))
    exists = jnp.pad(examples.pairs, ((0, 0), (0, len(extra))), constant_values=True)
    log_probs = log_softmax(cosines, temperature, exists).log_probs
    values = -jnp.where(own, log_probs, 0.0).sum(axis=-1)
    return jnp.where(examples.kept, values, 0.0)


def noise_contrastive(
    student: Float[Array, "batch dim"],
    teacher: Float[Array, "batch dim"],
    student_memory: Float[Array, "n dim"],
    teacher_memory: Float[Array, "n dim"],
    indices: Int[Array, " batch"],
    negatives: Int[Array, "batch K"],
    *,
    temperature: Scalar = 0.07,
    momentum: Scalar = 0.5,
    partition: Float[Array, "2"] | Sequence[Scalar] | None = None,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> tuple[
    Float[Array, " batch"],
    tuple[Float[Array, "n dim"], Float[Array, "n dim"]],
    Float[Array, "2"],
]:
    """Return CRD: tell an example from K others drawn from a memory of all n.

    `Σ_v [−log(x_0/(x_0 + K/n + ε)) − Σ_k log((K/n)/(x_k + K/n + ε))]` over both
    anchors v, the student's embedding against the teacher's memory and the reverse;
    `x_k = exp(⟨memory[k], v⟩/τ)/Z`, `ε = 1e-7`, with `x_0` the example's own row and
    `Z = mean(exp)·n` over the first batch, without gradient, one for each anchor.
    After that the own rows of a memory become the unit vector of `m·old + (1 − m)·v`.

    Published weight: 0.8.
    Use when embeddings matter more than logits and a batch holds too few negatives.

    Args:
      student: `[batch, dim]`, unit vectors, as are all embeddings here.
      teacher: `[batch, dim]`.
      student_memory: `[n, dim]`, one row for each example of the training set.
      teacher_memory: `[n, dim]`.
      indices: `[batch]`, the examples' rows of the memories, no two of them equal.
      negatives: `[batch, K]`, rows of K other examples.
      temperature: `τ > 0`.
      momentum: m in [0, 1], how much of an old row stays.
      partition: `[2]`, Z of the student anchor and of the teacher anchor as returned
        for the first batch; None for the first batch.
      where: `[batch]` booleans; False masks an example: it is 0, moves no row and does
        not count in Z.
      axis_name: the mapped axis that the batch is spread over; the memories are the
        same on all devices and stay so.

    Returns:
      `([batch], (student memory, teacher memory), [2])`: one value per example, whose
      `.mean()` is the published loss; the new memories, without gradient; and the
      partition.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> memory = jnp.eye(2)
    >>> own, other = jnp.array([0]), jnp.array([[1]])
    >>> s, t = jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.0]])
    >>> values, (student_memory, _), partition = noise_contrastive(
    ...     s, t, memory, memory, own, other, temperature=1.0
    ... )
    >>> values.round(4), student_memory[0].round(4)
    (Array([2.9031], dtype=float32), Array([0.7071, 0.7071], dtype=float32))

    Tian, Krishnan and Isola, 2020, equation 18: https://arxiv.org/abs/1910.10699
    """
    name = "noise_contrastive"
    memories = jnp.asarray(student_memory), jnp.asarray(teacher_memory)
    given = arguments(name, student, teacher, *memories, indices, negatives, where)
    checks.positive(name, temperature=temperature)
    checks.fraction(name, momentum=momentum)
    temperature = scalar(name, "temperature", temperature, like=given.student)
    momentum = scalar(name, "momentum", momentum, like=given.student)
    by_anchor = (
        scores(given.student, given.teacher_memory, given.keys, temperature),
        scores(given.teacher, given.student_memory, given.keys, temperature),
    )
    n = len(given.student_memory)
    known, log_z = partitions(name, partition, by_anchor, given.kept, n, axis_name)
    values = sum(noise_losses(x, log_z[i], n) for i, x in enumerate(by_anchor))
    new_student, new_teacher = updated_memories(given, momentum, axis_name)
    new_memories = (
        new_student.astype(memories[0].dtype),
        new_teacher.astype(memories[1].dtype),
    )
    return jnp.where(given.kept, values, 0.0), new_memories, known
