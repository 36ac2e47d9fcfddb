"""A memory of the embeddings of all examples, and the noise contrast with its rows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import checks
from kdjax.losses._arrays import l2_normalize, saturated, upcast
from kdjax.losses.relation._columns import embeddings


def check_vectors(function: str, dim: int, **arrays: Array) -> None:
    """Raise unless all arrays are floating `[n, dim]`."""
    checks.floating(function, **arrays)
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape[1] != dim:
            raise ValueError(
                f"{function}: {name} must be [n, dim] with dim = {dim} as in the "
                f"embeddings, got {list(array.shape)}"
            )


class Arguments(NamedTuple):
    """The checked arrays of `noise_contrastive`."""

    student: Float[Array, "batch dim"]
    teacher: Float[Array, "batch dim"]
    student_memory: Float[Array, "n dim"]
    teacher_memory: Float[Array, "n dim"]
    own: Int[Array, " batch"]
    keys: Int[Array, "batch K+1"]
    kept: Bool[Array, " batch"]


def arguments(
    name: str,
    student: Array,
    teacher: Array,
    student_memory: Array,
    teacher_memory: Array,
    indices: Array,
    negatives: Array,
    where: Array | None,
) -> Arguments:
    """Check and upcast the arrays; masked embeddings become zero."""
    student, teacher, where = embeddings(name, student, teacher, where)
    checks.same_shape(name, student=student, teacher=teacher)
    memories = jnp.asarray(student_memory), jnp.asarray(teacher_memory)
    memory = dict(zip(("student_memory", "teacher_memory"), memories, strict=True))
    check_vectors(name, student.shape[1], **memory)
    checks.same_shape(name, **memory)
    indices, negatives = jnp.asarray(indices), jnp.asarray(negatives)
    for key, array, axes in (("indices", indices, 1), ("negatives", negatives, 2)):
        fits = array.ndim == axes and array.shape[:1] == student.shape[:1]
        if not fits or 0 in array.shape[1:] or "int" not in array.dtype.name:
            raise ValueError(
                f"{name}: {key} must be integer row numbers of the memories, "
                f"{'[batch]' if axes == 1 else '[batch, K] with K > 0'}, got "
                f"{array.dtype}{list(array.shape)} for embeddings {list(student.shape)}"
            )
    kept = jnp.ones(len(student), bool) if where is None else where
    # zero, so that nothing a masked row holds (NaN too) can reach a value or gradient
    student, teacher = (jnp.where(kept[:, None], a, 0.0) for a in (student, teacher))
    s, t, s_memory, t_memory = upcast(student, teacher, *memories)
    own, others = indices.astype(jnp.int32), negatives.astype(jnp.int32)
    keys = jnp.concatenate([own[:, None], others], axis=1)
    return Arguments(s, t, s_memory, t_memory, own, keys, kept)


def scores(anchors: Array, memory: Array, keys: Array, temperature: Array) -> Array:
    """Return `⟨memory[k], v⟩/τ`, `[batch, K+1]`, where k = 0 is the positive."""
    anchors = saturated(anchors, terms=1e12)
    if len(memory) <= keys.shape[1] * memory.shape[1]:
        # products with all rows are fewer numbers than the rows of all keys
        vectors = saturated(memory, terms=1e12)
        products = jnp.matmul(anchors, vectors.T, precision="highest")
        products = jnp.take_along_axis(products, keys, axis=1, mode="clip")
    else:
        vectors = saturated(memory.at[keys].get(mode="clip"), terms=1e12)
        products = jnp.einsum("bd,bkd->bk", anchors, vectors, precision="highest")
    return jnp.clip(products / temperature, -1e25, 1e25)  # sums of it stay finite


def _replicated(array: Array, axis_name: str | None) -> Array:
    """Return the rows of all devices, known by `shard_map` to be the same on each.

    For what has no gradient; `gather` is for what has.
    """
    if axis_name is None:
        return array
    empty = jnp.zeros((jax.lax.axis_size(axis_name), *array.shape), array.dtype)
    placed = empty.at[jax.lax.axis_index(axis_name)].set(array)
    return jax.lax.psum(placed, axis_name).reshape(-1, *array.shape[1:])


def _log_partition(scores: Array, kept: Array, n: int, axis_name: str | None) -> Array:
    """Return log of `Z = mean(exp) · n` over the kept rows of all devices."""
    row = jnp.where(kept, jax.nn.logsumexp(scores, axis=1), -jnp.inf)
    row, kept = (_replicated(a, axis_name) for a in (row, kept.astype(scores.dtype)))
    count = jnp.maximum(kept.sum(), 1.0) * scores.shape[1]
    log_z = jax.nn.logsumexp(row) - jnp.log(count) + math.log(n)
    return jnp.where(kept.any(), log_z, 0.0)


def noise_losses(scores: Array, log_z: Array, n: int) -> Float[Array, " batch"]:
    """Return `−log(x_0/(x_0 + c)) − Σ_k log(c/(x_k + c))`, `c = K/n`, in log space."""
    noise = (scores.shape[1] - 1) / n
    log_x = scores - log_z - math.log(noise + 1e-7)
    positive = jax.nn.softplus(-log_x[:, 0])
    negative = jax.nn.softplus(log_x[:, 1:]) + math.log1p(1e-7 / noise)
    return positive + negative.sum(axis=1)


def partitions(
    name: str,
    given: Any,
    by_anchor: Sequence[Array],
    kept: Array,
    n: int,
    axis_name: str | None,
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Return Z and log Z of both anchors: the given ones or those of this batch."""
    dtype = by_anchor[0].dtype
    smallest = float(jnp.finfo(dtype).tiny)
    if given is not None:
        known = jax.lax.stop_gradient(jnp.asarray(given, dtype))
        if known.shape != (2,):
            raise ValueError(
                f"{name}: partition must be [2], one per anchor, got "
                f"{list(known.shape)}"
            )
        return known, jnp.log(jnp.maximum(known, smallest))
    both = [_log_partition(x, kept, n, axis_name) for x in by_anchor]
    log_z = jax.lax.stop_gradient(jnp.stack(both))
    return jnp.clip(jnp.exp(log_z), smallest, 0.5 / smallest), log_z


def updated_memories(
    given: Arguments, momentum: Array, axis_name: str | None
) -> tuple[Array, Array]:
    """Return both memories with the kept examples' rows, of all devices, moved."""
    n = len(given.student_memory)
    # a masked row's number is n, which is no row: dropped
    own = _replicated(jnp.where(given.kept, given.own, n), axis_name)
    given = jax.lax.stop_gradient(given)

    def moved(memory: Array, vectors: Array) -> Array:
        old = memory.at[own].get(mode="clip")
        new = momentum * old + (1.0 - momentum) * _replicated(vectors, axis_name)
        return memory.at[own].set(l2_normalize(new, axis=-1), mode="drop")

    return (
        moved(given.student_memory, given.student),
        moved(given.teacher_memory, given.teacher),
    )
