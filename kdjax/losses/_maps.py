"""Feature maps `[batch, *spatial, channels]`: checks, and one size for both sides."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import checks
from kdjax.losses._arrays import upcast


def flat_space(maps: Array) -> Array:
    """Return maps as `[batch, space, channels]`."""
    return maps.reshape(maps.shape[0], math.prod(maps.shape[1:-1]), maps.shape[-1])


def adaptive_bins(size: int, bins: int, dtype: np.dtype) -> np.ndarray:
    """Return the `[bins, size]` matrix that averages over adaptive bins."""
    index = np.arange(bins)[:, None]
    start, end = index * size // bins, -(-(index + 1) * size // bins)
    inside = (np.arange(size) >= start) & (np.arange(size) < end)
    return (inside / inside.sum(1, keepdims=True)).astype(dtype)


def adaptive_pool(maps: Array, spatial: tuple[int, ...]) -> Array:
    """Average over adaptive bins: from `floor(i n/m)` to `ceil((i+1) n/m)` each."""
    for axis, (size, bins) in enumerate(
        zip(maps.shape[1:-1], spatial, strict=True), start=1
    ):
        if bins != size:
            matrix = jnp.asarray(adaptive_bins(size, bins, maps.dtype))
            pooled = jnp.tensordot(maps, matrix, (axis, 1), precision="highest")
            maps = jnp.moveaxis(pooled, -1, axis)
    return maps


def check_maps(function: str, least_axes: int = 1, /, **maps: Array) -> None:
    """Raise unless all are floating maps of one batch and number of spatial axes."""
    checks.floating(function, **maps)
    shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in maps.items())
    if any(a.ndim < 2 + least_axes or 0 in a.shape[1:] for a in maps.values()):
        raise ValueError(
            f"{function}: feature maps must be [batch, *spatial, channels] with "
            f"{least_axes} or more spatial axes and none of size 0, got {shapes}"
        )
    if len({(a.shape[0], a.ndim) for a in maps.values()}) > 1:
        raise ValueError(
            f"{function}: feature maps must have one batch size and one number of "
            f"spatial axes, got {shapes}"
        )


def check_channels(function: str, **maps: Array) -> None:
    """Raise unless all maps have the same number of channels."""
    if len({a.shape[-1] for a in maps.values()}) > 1:
        shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in maps.items())
        raise ValueError(
            f"{function}: numbers of channels must be equal, got {shapes}; project the "
            "student first (kdjax.models.projectors)"
        )


def check_per_channel(function: str, maps: Array, **parameters: Array) -> None:
    """Raise unless all parameters are floating `[channels]`, as many as the maps'."""
    checks.floating(function, maps=maps, **parameters)
    for name, parameter in parameters.items():
        if parameter.shape != maps.shape[-1:]:
            raise ValueError(
                f"{function}: {name} must be [channels], one number per channel of "
                f"{list(maps.shape)}, got {list(parameter.shape)}"
            )


def same_space(*maps: Array) -> list[Array]:
    """Pool every map to the smallest size among them, axis by axis."""
    spatial = tuple(
        min(sizes) for sizes in zip(*(a.shape[1:-1] for a in maps), strict=True)
    )
    return [adaptive_pool(a, spatial) for a in maps]


def map_pair(
    function: str,
    student: Array,
    teacher: Array,
    *,
    channels: bool = True,
    least_axes: int = 1,
) -> tuple[Array, Array]:
    """Check two maps, upcast them and pool the larger to the smaller.

    Args:
      function: for the error message.
      student: `[batch, *spatial, channels]`.
      teacher: the same batch and number of spatial axes.
      channels: whether the numbers of channels have to be equal.
      least_axes: spatial axes needed; with 0, `[batch, dim]` is a map without space.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_maps(function, least_axes, student=student, teacher=teacher)
    if channels:
        check_channels(function, student=student, teacher=teacher)
    student, teacher = same_space(*upcast(student, teacher))
    return student, teacher
