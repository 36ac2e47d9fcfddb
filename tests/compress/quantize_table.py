"""All methods of quantization, and what they make of arrays that are hard for them."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from kdjax.compress import quantize

BITS = range(2, 9)
KEPT = 80.0
BOUNDS = {
    "min_max": quantize.min_max,
    "percentile": quantize.percentile(KEPT),
    "mse": quantize.mse(),
}
AXES = {"tensor": None, "channel": -1}
UNIFORM = {
    f"{bits}-{kind}-{grid}-{bounds}": functools.partial(
        quantize.uniform,
        bits=bits,
        symmetric=kind == "symmetric",
        channel_axis=AXES[grid],
        bounds=BOUNDS[bounds],
    )
    for bits in BITS
    for kind in ("symmetric", "affine")
    for grid in AXES
    for bounds in BOUNDS
}
POWERS = {
    f"{bits}-power_of_two-{grid}": functools.partial(
        quantize.power_of_two, bits=bits, channel_axis=axis
    )
    for bits in BITS
    for grid, axis in AXES.items()
}
KMEANS = {
    f"{bits}-kmeans": functools.partial(quantize.kmeans, bits=bits) for bits in BITS
}
NF4 = {
    f"4-nf4-{grid}": functools.partial(quantize.nf4, channel_axis=axis)
    for grid, axis in AXES.items()
}
METHODS = UNIFORM | POWERS | KMEANS | NF4
STABLE = [
    *POWERS,
    *NF4,
    *(name for name in UNIFORM if "min_max" in name),
]
"""Those that keep what they made when it is quantized again."""

_RNG = np.random.default_rng(0)
_NORMAL = _RNG.normal(size=(6, 4))
_SIGNS = np.where(_RNG.random((6, 4)) < 0.5, -1.0, 1.0)
_MOST = np.finfo(np.float32).max
CASES = {
    "normal": _NORMAL,
    "pruned": _NORMAL * (_RNG.random((6, 4)) < 0.3),
    "zeros": np.zeros((6, 4)),
    "constant": np.full((6, 4), 0.7),
    "negative": -np.abs(_NORMAL) - 0.1,
    "positive": np.abs(_NORMAL) + 0.1,
    "one large": np.where(np.arange(24).reshape(6, 4) == 13, -100.0, _NORMAL),
    "integers": np.clip(np.round(_NORMAL * 9), *[[-7, -5, -3, -2], [7, 5, 3, 2]]),
    "no two channels alike": _NORMAL * [1e-4, 1e-2, 1.0, 1e2],
    "a channel of zeros": _NORMAL * [1.0, 0.0, 1.0, 1.0],
    "powers of two": 2.0 ** np.arange(-12, 12).reshape(6, 4) * _SIGNS,
    "large": np.clip(_NORMAL, -1, 1) * 3e38,
    "largest": _SIGNS * _MOST * (np.arange(24).reshape(6, 4) != 5),
    "small": np.clip(_NORMAL, -1, 1) * 1e-38,
    "subnormal": np.round(_NORMAL) * 1e-40,
}
PLACES = {name: place for place, name in enumerate(CASES)}
STACKED = np.stack([*CASES.values()]).astype(np.float32)


class Made(NamedTuple):
    """What a method makes of every case.

    Attributes:
      quantized: `[cases, ...]`.
      array: what it stands for.
      again: what that stands for when it is quantized again, of the stable ones.
    """

    quantized: quantize.Quantized
    array: np.ndarray
    again: np.ndarray | None


@functools.cache
def made(name):
    """Return what a method makes of all cases, in one program."""
    method = METHODS[name]

    @jax.jit
    @jax.vmap
    def program(array):
        small = method(array)
        given = small.dequantized()
        again = method(given).dequantized() if name in STABLE else None
        return small, given, again

    return Made(*jax.tree.map(np.asarray, program(STACKED)))


def squared_error(array, exact):
    """Return the sum of squares, in float64."""
    exact = np.asarray(exact, np.float64)
    return np.square(np.asarray(array, np.float64) - exact).sum()
