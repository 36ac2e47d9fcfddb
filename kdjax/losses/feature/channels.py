"""What the channels of a map say: where each looks, how they go together."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    normalized_products,
    rescaled,
    scalar,
    standardized,
)
from kdjax.losses._maps import flat_space, map_pair
from kdjax.losses._softmax import kl, log_ratio, log_softmax


def channel_wise_kl(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
    *,
    temperature: Scalar = 4.0,
) -> Float[Array, " batch"]:
    """Return the KL between the distributions over space that the channels are.

    `T² mean_c Σ_i p_ic (log p_ic − log q_ic)` with `p = softmax_i(teacher / T)` and
    `q = softmax_i(student / T)` over the places i of each channel c.

    Published weight: 3 for maps of logits, 50 for feature maps.
    Use when the prediction is dense (segmentation, detection): a channel shows where
    its class or part is, and only its strongest places matter.

    Args:
      student: `[batch, *spatial, channels]`, one or more spatial axes.
      teacher: the same batch, number of spatial axes and channels; where a spatial
        size differs, the larger is pooled to the smaller.
      temperature: `T > 0`.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student = jnp.array([[[0.0], [0.0]]])  # two places, one channel
    >>> teacher = jnp.array([[[4.0], [0.0]]])
    >>> channel_wise_kl(student, teacher, temperature=4.0).round(4)
    Array([1.7751], dtype=float32)

    Shu et al., CWD, 2021: https://arxiv.org/abs/2011.13256
    """
    name = "channel_wise_kl"
    student, teacher = map_pair(name, student, teacher)
    checks.positive(name, temperature=temperature)
    temperature = scalar(name, "temperature", temperature, like=student)
    q, p = (
        log_softmax(flat_space(maps).swapaxes(1, 2), temperature)
        for maps in (student, teacher)
    )
    return temperature**2 * kl(p.probs, q.probs, log_ratio(p, q)).mean(axis=-1)


def _channel_gram(maps: Array) -> Array:
    """Products of all channels `[batch, c, c]`, each row of unit norm."""
    flat = flat_space(maps)
    own, size = rescaled(flat, axis=1)  # a row does not depend on its channel's scale
    others, _ = rescaled(flat, axis=(1, 2))
    gram = jnp.einsum("bsi,bsj->bij", own, others, precision="highest")
    return normalized_products(gram, size.swapaxes(1, 2))


def channel_correlation(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return the squared difference of the correlations between channels.

    `Σ_ij (G_s − G_t)²_ij / C` over pairs of the C channels, with G the products
    `F Fᵀ` of the channels over space, each row l2-normalised. A channel that is zero
    has a row of zeros.

    Published weight: 2.5.
    Use when what the teacher's channels have in common should be kept, not the place
    or the size of what they show.

    Args:
      student: `[batch, *spatial, channels]`, one or more spatial axes; project it to
        the teacher's channels first.
      teacher: the same batch, number of spatial axes and channels; where a spatial
        size differs, the larger is pooled to the smaller.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])  # two places, two channels
    >>> teacher = jnp.array([[[1.0, 1.0], [0.0, 0.0]]])
    >>> channel_correlation(student, teacher).round(4)
    Array([0.5858], dtype=float32)

    Liu et al., ICKD, 2021: https://arxiv.org/abs/2202.03680
    """
    student, teacher = map_pair("channel_correlation", student, teacher)
    difference = _channel_gram(student) - _channel_gram(teacher)
    return jnp.square(difference).sum(axis=(1, 2)) / student.shape[-1]


def pearson_features(
    student: Float[Array, "batch *student_space channels"],
    teacher: Float[Array, "batch *teacher_space channels"],
) -> Float[Array, " batch"]:
    """Return half the mean squared difference of standardised channels.

    `mean_{i,c} (ŝ_ic − t̂_ic)² / 2` over the places i and channels c of an example,
    where `x̂ = (x − mean) / (std + 1e-6)` over batch and space, each channel by itself,
    with the unbiased std: `1 − r` for the correlation r of a channel, up to
    (n − 1)/n. A constant channel is 0, with zero gradient.

    Published weight: by the detector, for instance 6 for Faster R-CNN and 10 for
    RetinaNet.
    Use when maps of detectors differ in size or offset and only their pattern should
    be learnt.

    Args:
      student: `[batch, *spatial, channels]`, one or more spatial axes.
      teacher: the same batch, number of spatial axes and channels; where a spatial
        size differs, the larger is pooled to the smaller.

    Returns:
      `[batch]`, one value per example, which depends on the others through mean and
      std; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[[1.0], [2.0], [3.0]]])  # three places, one channel
    >>> pearson_features(student, 10.0 - 5.0 * student).round(4)
    Array([1.3333], dtype=float32)

    Cao et al., PKD, 2022: https://arxiv.org/abs/2207.02039
    """
    student, teacher = map_pair("pearson_features", student, teacher)
    s, t = (
        standardized(flat_space(maps), axis=(0, 1), epsilon=1e-6)
        for maps in (student, teacher)
    )
    return 0.5 * jnp.square(s - t).mean(axis=(1, 2))
