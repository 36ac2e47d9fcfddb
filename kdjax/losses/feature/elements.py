"""Matching features element by element."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses._arrays import l2_normalize, saturated, squared_difference, upcast
from kdjax.losses._maps import check_per_channel, flat_space, map_pair


def hint(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return the mean squared difference of the features.

    The mean over all elements of `(s − t)²` with s the student's, usually projected,
    and t the teacher's features.

    Published weight: 100 (the CRD benchmark).

    Use when a student's layer shall repeat a teacher's layer and a learned projection
    brings it to the teacher's channels.

    Args:
      student: `[batch, *spatial, channels]`, or `[batch, dim]`.
      teacher: the same but for its spatial size; the larger is average-pooled.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> hint(jnp.array([[[1.0, 3.0]]]), jnp.array([[[0.0, 0.0]]]))
    Array([5.], dtype=float32)

    Romero et al., FitNets, 2015: https://arxiv.org/abs/1412.6550
    """
    student, teacher = map_pair("hint", student, teacher, least_axes=0)
    error = squared_difference(student, teacher)
    return flat_space(error).mean(axis=(1, 2))


def cosine_hint(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return the mean cosine distance of the channel vectors, in [0, 2].

    The mean over space of `1 − cos(s, t)`, with s and t the vectors of all channels at
    one place. A zero vector has cosine 0 with any other.

    Published weight: 1.

    Use when the direction of the features matters and their size does not, as for the
    hidden states of transformers.

    Args:
      student: `[batch, *spatial, channels]`, or `[batch, dim]`.
      teacher: the same but for its spatial size; the larger is average-pooled.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> cosine_hint(jnp.array([[[1.0, 0.0]]]), jnp.array([[[3.0, 0.0]]]))
    Array([0.], dtype=float32)

    Sanh et al., DistilBERT, 2019: https://arxiv.org/abs/1910.01108
    """
    student, teacher = map_pair("cosine_hint", student, teacher, least_axes=0)
    units = [flat_space(l2_normalize(a, axis=-1)) for a in (student, teacher)]
    alive = [jnp.any(unit != 0, axis=-1) for unit in units]
    # ‖s − t‖²/2 is 1 − cos of unit vectors, without its cancellation
    distance = 0.5 * jnp.square(units[0] - units[1]).sum(axis=-1)
    return jnp.where(alive[0] & alive[1], distance, 1.0).mean(axis=1)


def factor_transfer(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return the mean absolute difference of the features, each of norm one.

    The mean over all elements of `|s/‖s‖ − t/‖t‖|` with s and t all features of one
    example, flattened. Zero features stay zero.

    Published weight: 200 (the CRD benchmark, of factors averaged over channels first).

    Use when small modules trained beside the networks, a paraphraser of the teacher
    and a translator of the student, give the features to compare.

    Args:
      student: `[batch, *spatial, channels]`, or `[batch, dim]`: the student's factor.
      teacher: the same but for its spatial size; the larger is average-pooled.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> factor_transfer(jnp.array([[[3.0, 0.0]]]), jnp.array([[[0.0, 2.0]]]))
    Array([1.], dtype=float32)

    Kim et al., 2018: https://arxiv.org/abs/1802.04977
    """
    student, teacher = map_pair("factor_transfer", student, teacher, least_axes=0)
    units = [l2_normalize(flat_space(a), axis=(1, 2)) for a in (student, teacher)]
    gap = jnp.abs(units[0] - units[1])
    # Equal numbers may differ by rounding once normalised, which has no slope.
    rounding = 2.0 * float(jnp.finfo(gap.dtype).eps) * jnp.abs(units[1])
    return jnp.where(gap > rounding, gap, 0.0).mean(axis=(1, 2))


def variational_information(
    mean: Float[Array, "batch *student_space channels"],
    log_scale: Float[Array, " channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return how badly a Gaussian around the student predicts the teacher.

    The mean over all elements of `½ [(μ − t)²/v + log v]`, `v = softplus(ρ) + 1e-5`,
    with μ the prediction made from the student, ρ a learned number per channel and t
    the teacher's features: a bound on the mutual information of both. It has no least
    value of 0: where μ = t it is `½ log v`.

    Published weight: 1 (the CRD benchmark).

    Use when the teacher's channels differ in how well they can be predicted: those that
    cannot be get a large variance and count less.

    Args:
      mean: `[batch, *spatial, channels]`, or `[batch, dim]`: μ, the projected student.
      log_scale: `[channels]`, ρ, trained with the projection.
      teacher: like `mean` but for its spatial size; the larger is average-pooled.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> mean, teacher = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])
    >>> variational_information(mean, jnp.zeros(2), teacher).round(4)
    Array([1.2594], dtype=float32)

    Ahn et al., 2019: https://arxiv.org/abs/1904.05835
    """
    name = "variational_information"
    mean, teacher = jnp.asarray(mean), jnp.asarray(teacher)
    log_scale = jnp.asarray(log_scale)
    check_per_channel(name, teacher, log_scale=log_scale)
    mean, teacher = map_pair(name, mean, teacher, least_axes=0)
    mean, teacher, log_scale = upcast(mean, teacher, log_scale)
    variance = (jax.nn.softplus(log_scale) + 1e-5)[None, None]
    error = saturated(flat_space(mean - teacher)) / jnp.sqrt(variance)
    # The gradient divides by the variance again: room for a million squares over 1e-5.
    square = jnp.square(saturated(error, terms=1e11))
    return 0.5 * (square + jnp.log(variance)).mean(axis=(1, 2))
