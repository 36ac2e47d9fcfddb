"""Matching which neurons are active, on features before their ReLU."""

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    rescaled,
    saturated,
    scalar,
    squared_difference,
    upcast,
)
from kdjax.losses._maps import check_per_channel, flat_space, map_pair


def activation_boundary(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
    *,
    margin: Scalar = 1.0,
) -> Float[Array, " batch"]:
    """Return a squared hinge loss for being active where the teacher is.

    The mean over all elements of `(s + m)² [s > −m, t ≤ 0] + (s − m)² [s ≤ m, t > 0]`
    with s and t the features of student and teacher before the ReLU.

    Published weight: 1 (the CRD benchmark, of 3e-3 times the sum over the elements).

    Use when a student is initialised before the task is learned: it takes over where
    the teacher's neurons are active, not how strongly.

    Args:
      student: `[batch, *spatial, channels]`, or `[batch, dim]`.
      teacher: the same but for its spatial size; the larger is average-pooled.
      margin: m, how far from 0 the student has to be.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> activation_boundary(jnp.array([[[0.5, 9.0]]]), jnp.array([[[-1.0, 2.0]]]))
    Array([1.125], dtype=float32)

    Heo et al., 2019: https://arxiv.org/abs/1811.03233
    """
    name = "activation_boundary"
    student, teacher = map_pair(name, student, teacher, least_axes=0)
    margin = scalar(name, "margin", margin, like=student)
    short = jnp.where(teacher > 0, margin - student, margin + student)
    error = jnp.square(saturated(jnp.maximum(short, 0.0)))
    return flat_space(error).mean(axis=(1, 2))


def margin_relu_l2(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
    margin: Float[Array, " channels"],
) -> Float[Array, " batch"]:
    """Return the squared distance to the teacher's features above a negative margin.

    The sum over all elements of `(s − m)² [s > m, t ≤ m] + (s − t)² [s > t, m < t ≤ 0]
    + (s − t)² [t > 0]`, with s and t the features of student and teacher before the
    ReLU: positive ones are matched, negative ones only have to be low enough.

    Published weight: 1e-3.

    Use when the features of a convolutional teacher can be taken before its ReLU and
    after its batch normalisation, from which `margin_from_batch_norm` gives the margin.

    Args:
      student: `[batch, *spatial, channels]`, or `[batch, dim]`.
      teacher: the same but for its spatial size; the larger is average-pooled.
      margin: `[channels]`, m, usually below 0.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student, teacher = jnp.array([[1.0, 1.0, -9.0]]), jnp.array([[3.0, -3.0, -2.0]])
    >>> margin_relu_l2(student, teacher, jnp.array([-1.0, -1.0, -1.0]))
    Array([8.], dtype=float32)

    Heo et al., 2019: https://arxiv.org/abs/1904.01866
    """
    name = "margin_relu_l2"
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    margin = jnp.asarray(margin)
    check_per_channel(name, teacher, margin=margin)
    student, teacher = map_pair(name, student, teacher, least_axes=0)
    student, teacher, margin = upcast(student, teacher, margin)
    student, teacher = flat_space(student), flat_space(teacher)
    margin = margin[None, None]
    low = (student > margin) & (teacher <= margin)
    matched = (teacher > 0) | ((student > teacher) & (teacher > margin))
    error = jnp.where(low, squared_difference(student, margin), 0.0)
    error += jnp.where(matched, squared_difference(student, teacher), 0.0)
    return error.sum(axis=(1, 2))


def margin_from_batch_norm(
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
) -> Float[Array, " channels"]:
    """Return the mean of what is negative after batch normalisation; not a loss.

    `b − s φ(b/s) / Φ(−b/s)` where `Φ(−b/s) > 1e-3`, else `−3s`, with `s = |scale|`,
    `b = bias` and φ, Φ the density and distribution of N(0, 1): the mean of the
    negative part of N(b, s²). A channel of no scale is constant: it gives `min(b, 0)`.

    Published weight: none, it is the margin of `margin_relu_l2`.

    Use when `margin_relu_l2` needs the margin of a teacher's layer.

    Args:
      scale: `[channels]`, what the batch normalisation multiplies by.
      bias: `[channels]`, what it adds.

    Returns:
      `[channels]`, at most 0: there is nothing to average, the `.mean()` of the loss
      it is given to is the published one.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> margin_from_batch_norm(jnp.array([1.0, 0.0]), jnp.array([4.0, -2.0]))
    Array([-3., -2.], dtype=float32)

    Heo et al., 2019: https://arxiv.org/abs/1904.01866
    """
    name = "margin_from_batch_norm"
    scale, bias = jnp.asarray(scale), jnp.asarray(bias)
    checks.floating(name, scale=scale, bias=bias)
    checks.same_shape(name, scale=scale, bias=bias)
    if scale.ndim != 1:
        raise ValueError(
            f"{name}: scale and bias must be [channels], got {list(scale.shape)}"
        )
    scale, bias = upcast(jnp.abs(scale), bias)
    most = float(jnp.finfo(scale.dtype).max) * 1e-6  # neither −3s nor a slope overflows
    scale, bias = jnp.minimum(scale, most), jnp.clip(bias, -most, most)
    (unit_scale, unit_bias), _ = rescaled(jnp.stack([scale, bias]), axis=0)
    far = 40.0  # deviations from 0: φ is 0 there, and so is Φ on the other side
    near = jnp.abs(unit_bias) < far * unit_scale
    ratio = unit_bias / jnp.where(near, unit_scale, 1.0)
    ratio = jnp.where(near, ratio, far * jnp.sign(bias))
    below = norm.cdf(-ratio)
    some = below > 1e-3
    mean = bias - scale * (norm.pdf(ratio) / jnp.where(some, below, 1.0))
    return jnp.where(some, mean, -3.0 * scale)
