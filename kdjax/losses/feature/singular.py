"""Singular vectors of feature maps, and how they change from layer to layer."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses._arrays import l2_normalize, rescaled
from kdjax.losses._maps import flat_space, map_pair


@jax.custom_jvp
def _eigh(symmetric: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of `[batch, n, n]`."""
    values, vectors = jnp.linalg.eigh(symmetric)
    return values, vectors


@_eigh.defjvp
def _eigh_jvp(primals: tuple, tangents: tuple) -> tuple:
    """Leave out the turning of vectors into others of (nearly) the same value.

    There the vectors are not differentiable: the derivative has the reciprocal of the
    gap between the values.
    """
    values, vectors = _eigh(*primals)
    inner = vectors.mT @ tangents[0] @ vectors
    gaps = values[:, None, :] - values[:, :, None]
    apart = jnp.abs(gaps) > 1e-4 * jnp.abs(values).max(axis=1)[:, None, None]
    turning = jnp.where(apart, inner / jnp.where(apart, gaps, 1.0), 0.0)
    change = jnp.diagonal(inner, axis1=1, axis2=2), vectors @ turning
    return (values, vectors), change


def _right_singular(
    maps: Array, count: int, after: Array | None
) -> tuple[Array, Array]:
    """The largest singular values `[batch, count]`, and vectors `[batch, c, count]`.

    A value below 0.3 % of the largest is 0, and so is its vector, which is arbitrary.
    It waits for the values `after`: on a CPU each call of LAPACK holds a thread until
    the others have done its share, and as many calls at once as threads wait forever.
    """
    flat, _ = rescaled(flat_space(maps), axis=(1, 2))
    gram = jnp.einsum("bsi,bsj->bij", flat, flat, precision="highest")
    if after is not None:
        gram += 0.0 * jax.lax.stop_gradient(after[:, :1, None])
    squares, vectors = _eigh(gram)
    squares, vectors = squares[:, ::-1][:, :count], vectors[..., ::-1][..., :count]
    alive = squares > 1e-5 * squares[:, :1]
    values = jnp.where(alive, jnp.sqrt(jnp.where(alive, squares, 1.0)), 0.0)
    return values, jnp.where(alive[:, None], vectors, 0.0)


def _aligned(
    student: Array, teacher: Array, rank: int, after: Array | None
) -> tuple[Array, Array, Array]:
    """The weighted vectors of a layer `[batch, c, rank]`, matched and of one sign.

    Third, what the next layer has to wait for.
    """
    weights, t = _right_singular(teacher, rank, after)
    t *= jnp.where(t.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    last, s = _right_singular(student, min(rank + 1, student.shape[-1]), weights)
    cosine = jax.lax.stop_gradient(jnp.einsum("bcr,bck->brk", t, s))
    nearest = jnp.abs(cosine).argmax(axis=-1)
    chosen = jax.nn.one_hot(nearest, s.shape[-1], dtype=s.dtype)
    s = jnp.einsum("bck,brk->bcr", s, jnp.where(cosine < 0, -chosen, chosen))
    weights = l2_normalize(weights, axis=1)[:, None]
    return weights * s, weights * t, last


def _flow_gap(s: tuple[Array, Array], t: tuple[Array, Array]) -> Array:
    """Mean of `(exp(−d_s²/8) − exp(−d_t²/8))²` from one layer to the next."""
    d_s, d_t = (first[:, :, None] - second[:, None] for first, second in (s, t))
    change = (d_t - d_s) * (d_t + d_s) / 8
    gap = jnp.exp(-jnp.square(d_t) / 8) * jnp.expm1(change)
    return jnp.square(gap).mean(axis=(1, 2, 3))


def singular_value(
    student_maps: Sequence[Float[Array, "batch ..."]],
    teacher_maps: Sequence[Float[Array, "batch ..."]],
    *,
    rank: int = 1,
) -> Float[Array, " batch"]:
    """Return the gap in how the main directions of maps change between layers.

    `mean_l mean_{i,j,r} (K^s − K^t)²` with
    `K_lijr = exp(−(σ_lr v_lir − σ_{l+1,r} v_{l+1,jr})² / 8)`, where `v_lir` is the
    entry of channel i in the r-th right singular vector of the map `[space, channels]`
    of layer l, and σ the teacher's singular values divided by their norm, for both
    sides. Each vector of the teacher has the sign that makes its sum positive; the
    student's is that among its first rank + 1 that is nearest to it in direction, with
    the sign that is nearest. Of vectors with equal singular values, which are not
    differentiable, the turning into each other has no gradient.

    Published weight: none, its gradient is clipped to the norm of the task's.
    Use when only the main directions of large maps should be compared, and how they
    change through the network.

    Args:
      student_maps: two layers or more of `[batch, *spatial, channels]`, in order;
        project each to the teacher's channels first. Layers may differ in size and
        channels.
      teacher_maps: as many layers; in each the same channels, and where a spatial size
        differs, the larger is pooled to the smaller.
      rank: how many vectors of each map to compare, at most its channels.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss, averaged where
      the authors sum.

    Raises:
      ValueError: if a shape, dtype or the rank is not as above.

    >>> one, two = jnp.array([[[3.0, 0.0]]]), jnp.array([[[0.0, 3.0]]])  # one place
    >>> singular_value([one, one], [one, two]).round(4)
    Array([0.0138], dtype=float32)

    Lee, Kim and Song, KDSVD, 2018: https://arxiv.org/abs/1807.06819
    """
    name = "singular_value"
    if len(student_maps) != len(teacher_maps) or len(student_maps) < 2:
        raise ValueError(
            f"{name}: student and teacher must have the same two layers or more, got "
            f"{len(student_maps)} and {len(teacher_maps)} maps"
        )
    layers = [
        map_pair(name, student, teacher)
        for student, teacher in zip(student_maps, teacher_maps, strict=True)
    ]
    if len({len(student) for student, _ in layers}) > 1:
        shapes = [list(student.shape) for student, _ in layers]
        raise ValueError(f"{name}: layers must have one batch size, got {shapes}")
    least = min(student.shape[-1] for student, _ in layers)
    if not 1 <= rank <= least:
        raise ValueError(f"{name}: rank must be from 1 to {least}, got {rank}")
    found: list[tuple[Array, Array]] = []
    last = None
    for layer in layers:
        s, t, last = _aligned(*layer, rank, last)
        found.append((s, t))
    gaps = [
        _flow_gap((s, next_s), (t, next_t))
        for (s, t), (next_s, next_t) in itertools.pairwise(found)
    ]
    return sum(gaps[1:], start=gaps[0]) / len(gaps)
