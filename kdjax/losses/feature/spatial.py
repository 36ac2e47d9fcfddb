"""Matching where features are active: attention, selectivity, flow between layers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    l2_normalize,
    rescaled,
    saturated,
    scalar,
    squared_difference,
    upcast,
)
from kdjax.losses._maps import (
    check_channels,
    check_maps,
    flat_space,
    map_pair,
    same_space,
)


def _attention(maps: Array, power: Array) -> Array:
    """Return `mean_c |f|^p`, l2-normalised over space: `[batch, space]`."""
    maps = flat_space(maps)
    size = jnp.abs(rescaled(maps, axis=(1, 2))[0])  # no power of it overflows
    # Not below the smallest normal number, where the slope of a root would overflow.
    alive = jnp.minimum(size, jnp.abs(maps)) >= jnp.finfo(maps.dtype).tiny
    powered = jnp.where(alive, jnp.where(alive, size, 1.0) ** power, 0.0)
    return l2_normalize(powered.mean(axis=2), axis=1)


def attention_transfer(
    student: Float[Array, "batch *student_space student_channels"],
    teacher: Float[Array, "batch *teacher_space teacher_channels"],
    *,
    power: Scalar = 2.0,
) -> Float[Array, " batch"]:
    """Return the mean squared difference of the attention maps.

    The mean over space of `(a_s − a_t)²` with a the mean over channels of `|f|^p`, of
    l2 norm one over space. Maps of zeros have an attention of zeros.

    Published weight: 1000 (the CRD benchmark).

    Use when student and teacher are convolutional networks with stages of the same
    sizes, and the student has fewer channels.

    Args:
      student: `[batch, *spatial, channels]`, with at least one spatial axis.
      teacher: the same batch and number of spatial axes; the channels may differ, and
        the sizes, where the larger is average-pooled.
      power: `p > 0`.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> attention_transfer(jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0], [5.0]]]))
    Array([1.], dtype=float32)

    Zagoruyko and Komodakis, 2017: https://arxiv.org/abs/1612.03928
    """
    name = "attention_transfer"
    checks.positive(name, power=power)
    student, teacher = map_pair(name, student, teacher, channels=False)
    power = scalar(name, "power", power, like=student)
    difference = _attention(student, power) - _attention(teacher, power)
    return jnp.square(difference).mean(axis=1)


def _gram(first: Array, second: Array) -> Array:
    """Inner products over the first axis after the batch: `[batch, c1, c2]`."""
    return jnp.einsum("bni,bnj->bij", first, second, precision="highest")


def _selectivity_over_space(student: Array, teacher: Array) -> Array:
    """`‖t tᵀ − s sᵀ‖²` of `[batch, space, channels]`, as it is written."""
    students, teachers = (a.swapaxes(1, 2) for a in (student, teacher))
    gap = _gram(teachers, teachers) - _gram(students, students)
    return jnp.square(gap).sum(axis=(1, 2))


def _selectivity_over_channels(student: Array, teacher: Array) -> Array:
    """The same with `t tᵀ − s sᵀ = ½ (d pᵀ + p dᵀ)`, `d = t − s`, `p = t + s`.

    It needs products of channels only, and as all of them hold d twice, they vanish
    with it, where the difference of products of t and of s would be left with rounding.
    """
    count = max(student.shape[2], teacher.shape[2])
    student, teacher = (
        jnp.pad(a, ((0, 0), (0, 0), (0, count - a.shape[2])))
        for a in (student, teacher)
    )
    apart, together = teacher - student, teacher + student
    cross = _gram(apart, together)
    products = _gram(apart, apart) * _gram(together, together)
    value = 0.5 * (products + cross * cross.swapaxes(1, 2)).sum(axis=(1, 2))
    return value + jax.lax.stop_gradient(jnp.maximum(value, 0.0) - value)


def neuron_selectivity(
    student: Float[Array, "batch *student_space student_channels"],
    teacher: Float[Array, "batch *teacher_space teacher_channels"],
) -> Float[Array, " batch"]:
    """Return how far the channels, as a set of patterns over space, are apart.

    `mean_ij ⟨t_i, t_j⟩² + mean_ij ⟨s_i, s_j⟩² − 2 mean_ij ⟨s_i, t_j⟩²` with s and t the
    channels of student and teacher, each of l2 norm one over space, and every mean over
    its own pairs: the squared maximum mean discrepancy of the two sets under a
    polynomial kernel. It equals `‖mean_i t_i t_iᵀ − mean_i s_i s_iᵀ‖²` and is computed
    so, hence never negative and 0 at equality. Its memory per example is the square of
    the size of space or of the number of channels, whichever is smaller.

    Published weight: 50 (the CRD benchmark).

    Use when the channels of student and teacher do not correspond, but together should
    be selective for the same places.

    Args:
      student: `[batch, *spatial, channels]`, with at least one spatial axis.
      teacher: the same batch and number of spatial axes; the channels may differ, and
        the sizes, where the larger is average-pooled.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> neuron_selectivity(jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0], [5.0]]]))
    Array([2.], dtype=float32)

    Huang and Wang, 2017: https://arxiv.org/abs/1707.01219
    """
    maps = map_pair("neuron_selectivity", student, teacher, channels=False)
    student, teacher = (
        l2_normalize(flat_space(a), axis=1) / a.shape[-1] ** 0.5 for a in maps
    )
    if student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        return _selectivity_over_space(student, teacher)
    return _selectivity_over_channels(student, teacher)


def _flow(first: Array, second: Array) -> Array:
    """`[batch, c1, c2]`: inner products of channels, over the size of space."""
    first, second = (saturated(flat_space(a)) for a in same_space(first, second))
    return _gram(first, second / second.shape[1])


def flow_matrix(
    first: Float[Array, "batch *first_space first_channels"],
    second: Float[Array, "batch *second_space second_channels"],
) -> Float[Array, "batch first_channels second_channels"]:
    """Return how the channels of two layers are active together; not a loss.

    The mean over space of `F1_i F2_j` with F1 and F2 the maps of two layers of one
    network, and i and j their channels.

    Published weight: none, it is what `flow_of_solution` compares.

    Use when the flow between two layers is to be compared or shown in another way than
    by `flow_of_solution`.

    Args:
      first: `[batch, *spatial, channels]`, with at least one spatial axis.
      second: the same batch and number of spatial axes; the channels may differ, and
        the sizes, where the larger is average-pooled.

    Returns:
      `[batch, first channels, second channels]`; `.mean()` of `flow_of_solution`, which
      compares two of them, is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> flow_matrix(jnp.array([[[1.0], [2.0]]]), jnp.array([[[3.0, 0.0], [1.0, 4.0]]]))
    Array([[[2.5, 4. ]]], dtype=float32)

    Yim et al., 2017:
    https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    check_maps("flow_matrix", first=first, second=second)
    return _flow(*upcast(first, second))


def flow_of_solution(
    student_pair: tuple[
        Float[Array, "batch *student_first_space first_channels"],
        Float[Array, "batch *student_second_space second_channels"],
    ],
    teacher_pair: tuple[
        Float[Array, "batch *teacher_first_space first_channels"],
        Float[Array, "batch *teacher_second_space second_channels"],
    ],
) -> Float[Array, " batch"]:
    """Return the mean squared difference of the flow between two layers.

    The mean over `(i, j)` of `(G_s − G_t)²_ij` with G the `flow_matrix` of a pair of
    layers, the first and the last of a stage.

    Published weight: 50 (the CRD benchmark).

    Use when stages of student and teacher start and end with the same numbers of
    channels, as those of residual networks that differ in depth do.

    Args:
      student_pair: two maps `[batch, *spatial, channels]`.
      teacher_pair: two maps of the same batch, number of spatial axes and, first with
        first and second with second, channels; spatial sizes may differ.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> one, two = jnp.ones((1, 4, 1)), jnp.full((1, 4, 1), 2.0)
    >>> flow_of_solution((one, two), (two, two))
    Array([4.], dtype=float32)

    Yim et al., 2017:
    https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    """
    name = "flow_of_solution"
    if len(student_pair) != 2 or len(teacher_pair) != 2:
        raise ValueError(
            f"{name}: both pairs must have two maps, got {len(student_pair)} of the "
            f"student and {len(teacher_pair)} of the teacher"
        )
    maps = [jnp.asarray(a) for a in (*student_pair, *teacher_pair)]
    names = ("student_first", "student_second", "teacher_first", "teacher_second")
    named = dict(zip(names, maps, strict=True))
    check_maps(name, **named)
    check_channels(name, **{n: a for n, a in named.items() if "first" in n})
    check_channels(name, **{n: a for n, a in named.items() if "second" in n})
    maps = upcast(*maps)
    difference = squared_difference(_flow(*maps[:2]), _flow(*maps[2:]))
    return difference.mean(axis=(1, 2))
