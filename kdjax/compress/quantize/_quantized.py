"""Arrays as small integers, and trees of them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import checks
from kdjax.base import PyTree
from kdjax.compress._weights import Where, weights
from kdjax.trees import path_name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """An array as integers of a few bits, and what they stand for.

    A uniform one stands for `(codes − zero_point) · scale`, one with a codebook for
    `levels[codes] · scale`. In both 0.0 is represented exactly. What `vmap` has made of
    many arrays is dequantized by `vmap`, too.

    Attributes:
      codes: integers in `[0, 2**bits)`, uint8, of the array's shape.
      scale: one for all or for each channel; broadcasts to the array.
      zero_point: the code of 0.0, like `scale`; None with a codebook.
      levels: the codebook, `[2**bits]` in rising order; None without.
      bits: of a code.
      dtype: name of the array's dtype.
    """

    codes: Array
    scale: Array
    zero_point: Array | None
    levels: Array | None
    bits: int = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.codes.shape

    @property
    def zero_code(self) -> Array:
        """The code of 0.0; broadcasts to the codes."""
        if self.levels is None:
            return cast(Array, self.zero_point)
        return jnp.abs(self.levels).argmin().astype(self.codes.dtype)

    def dequantized(self) -> Array:
        """Return the array that the codes stand for."""
        if self.levels is None:
            steps = self.codes.astype(int) - self.zero_code.astype(int)
            values = steps.astype(self.scale.dtype)
        else:
            values = self.levels[self.codes]
        return finite(values * self.scale, self.dtype)


Method = Callable[[Array], Quantized]
"""`method(array) -> Quantized`, such as `functools.partial(uniform, bits=4)`."""


def quantized(params: PyTree, method: Method, *, where: Where = weights) -> PyTree:
    """Return the tree with its weights quantized.

    Args:
      params: any pytree of arrays.
      method: of one array, such as `functools.partial(uniform, bits=4)`.
      where: `where(path, leaf)`, which leaves; by default those that hold weights,
        without biases and norms.

    Returns:
      The same containers, with a `Quantized` in the place of each of those leaves.

    Raises:
      ValueError: if no leaf is chosen.

    >>> from kdjax.compress import quantize
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    >>> small = quantized(params, quantize.kmeans)
    >>> type(small["kernel"]).__name__, small["bias"].shape
    ('Quantized', (3,))
    """

    def convert(path: Any, leaf: Any) -> Any:
        return method(leaf) if where(path_name(path), leaf) else leaf

    return jax.tree_util.tree_map_with_path(convert, _chosen(params, where))


def _chosen(params: PyTree, where: Where) -> PyTree:
    named = jax.tree_util.tree_leaves_with_path(params)
    if not any(where(path_name(path), leaf) for path, leaf in named):
        paths = ", ".join(path_name(path) for path, _ in named)
        raise ValueError(
            "quantize: no leaf is chosen; where= must hold for one of "
            f"{paths or 'none'}"
        )
    return params


def dequantized(tree: PyTree) -> PyTree:
    """Return the tree with arrays in the place of what is quantized.

    >>> from kdjax.compress import quantize
    >>> dequantized({"w": quantize.uniform(jnp.eye(2), bits=2)})
    {'w': Array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    return jax.tree.map(
        lambda x: x.dequantized() if isinstance(x, Quantized) else x,
        tree,
        is_leaf=lambda x: isinstance(x, Quantized),
    )


def straight_through(
    method: Method, *, where: Where = weights
) -> Callable[[PyTree], PyTree]:
    """Return what makes a network compute with quantized weights, and still learn.

    Forward, weights are what their codes stand for, to the last bit; backward, the
    gradient passes as if nothing had been rounded. For quantization-aware training put
    it around a network, `networks.transformed(network, straight_through(method))`, and
    train that in the place of the network, with the same objective.

    Args:
      method: of one array, such as `functools.partial(uniform, bits=4)`.
      where: which leaves; by default those that hold weights.

    Returns:
      `transform(params) -> params`.

    Source: Bengio, Léonard and Courville, "Estimating or propagating gradients through
    stochastic neurons", https://arxiv.org/abs/1308.3432 (2013); Jacob et al.,
    https://arxiv.org/abs/1712.05877 (2018).

    >>> import functools
    >>> from kdjax.compress import quantize
    >>> rounded = straight_through(functools.partial(quantize.uniform, bits=2))
    >>> jax.grad(lambda w: rounded(w).sum())(jnp.array([[0.3, 1.0]]))
    Array([[1., 1.]], dtype=float32)
    """

    def pass_through(path: Any, leaf: Any) -> Any:
        if not where(path_name(path), leaf):
            return leaf
        held = jax.lax.stop_gradient(leaf)
        # first what is exactly 0: the sum is the dequantized weight, bit by bit
        return (leaf - held) + method(held).dequantized()

    def transform(params: PyTree) -> PyTree:
        chosen = _chosen(params, where)
        return jax.tree_util.tree_map_with_path(pass_through, chosen)

    return transform


def finite(values: Array, dtype: Any) -> Array:
    """Return values in a dtype, the largest of it where a grid reaches beyond it."""
    most = float(jnp.finfo(dtype).max)
    return jnp.clip(values, -most, most).astype(dtype)


def usable(scale: Array) -> Array:
    """Return scales; 1 where they have no inverse, NaN where they are not finite."""
    scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
    return jnp.where(scale <= jnp.finfo(scale.dtype).tiny, 1.0, scale)


def upcast(array: Array) -> Array:
    """Return the array in float32 at least."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def check(function: str, array: Any, bits: int, axis: int | None = None) -> None:
    """Raise ValueError unless the array is floating, and has such an axis."""
    checks.floating(function, array=array)
    checks.integer(function, 2, 8, bits=bits)
    if axis is not None and array.ndim:
        checks.integer(function, -array.ndim, array.ndim - 1, channel_axis=axis)


def to_rows(array: Array, channel_axis: int | None) -> Array:
    """Return the array as `[channels, n]`; one channel where there is no axis."""
    if channel_axis is None or array.ndim == 0:
        return array.reshape(1, -1)
    moved = jnp.moveaxis(array, channel_axis, 0)
    # not -1, which is unknown where there are no channels
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))


def from_rows(rows: Array, like: Array, channel_axis: int | None) -> Array:
    """Undo `to_rows`."""
    if channel_axis is None or like.ndim == 0:
        return rows.reshape(like.shape)
    others = jnp.moveaxis(like, channel_axis, 0).shape[1:]
    return jnp.moveaxis(rows.reshape(rows.shape[0], *others), 0, channel_axis)


def per_channel(values: Array, like: Array, channel_axis: int | None) -> Array:
    """Return `[channels]` values as they broadcast to the array."""
    shape = [1] * like.ndim
    if channel_axis is not None and like.ndim:
        shape[channel_axis] = len(values)
    return values.reshape(shape)
