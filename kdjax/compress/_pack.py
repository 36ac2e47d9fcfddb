"""Trees as they lie on disk: codes as bits, pruned weights as a bitmap."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax.base import PyTree
from kdjax.compress.quantize import Quantized


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """An array, quantized or not, in as few bytes as it needs.

    Attributes:
      arrays: `data`, the values or the bits of the codes; `mask`, where many are 0, the
        bits that say which are not: `data` holds these alone; `scale`, `zero_point` and
        `levels` of a quantized one.
      shape: the array's.
      dtype: name of the array's dtype.
      bits: of a code; None where nothing is quantized.
    """

    arrays: dict[str, Array]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})
    bits: int | None = dataclasses.field(metadata={"static": True})

    def unpacked(self) -> Array | Quantized:
        """Return what was packed; pure, so that a program can hold packed weights."""
        data, size = self.arrays["data"], int(np.prod(self.shape))
        count = size if "mask" not in self.arrays else None
        if self.bits is not None:
            data = from_bits(data, self.bits, count)
        if self.bits is None:
            values = self._spread(data, jnp.zeros((), data.dtype), size)
            return jnp.asarray(values, self.dtype).reshape(self.shape)
        like = Quantized(data, self.arrays["scale"], **self._grid())
        zero = jnp.broadcast_to(like.zero_code, self.shape).ravel()
        codes = self._spread(data, zero, size).reshape(self.shape)
        return dataclasses.replace(like, codes=codes)

    def _grid(self) -> dict[str, Any]:
        levels, zero = self.arrays.get("levels"), self.arrays.get("zero_point")
        if levels is None and zero is None:
            scale = self.arrays["scale"]
            zero = jnp.full(scale.shape, _middle(self.bits), jnp.uint8)
        fixed = {"bits": self.bits, "dtype": self.dtype}
        return {"zero_point": zero, "levels": levels, **fixed}

    def _spread(self, data: Array, zero: Array, size: int) -> Array:
        """Put the values that are kept in their places, zeros elsewhere."""
        if "mask" not in self.arrays:
            return data
        stays = jnp.unpackbits(self.arrays["mask"], count=size).astype(bool)
        place = jnp.clip(jnp.cumsum(stays) - 1, 0)
        return jnp.where(stays, data[place], zero)


def _middle(bits: int | None) -> int:
    """The code of 0.0 on a symmetric grid, which needs not be stored."""
    assert bits is not None
    return 2 ** (bits - 1) - 1


def pack(tree: PyTree) -> PyTree:
    """Return the tree with every array as a `Packed`; undone by `unpack`, bit by bit.

    Codes take as many bits as they have. An array with enough zeros, quantized or not,
    is kept as a bitmap and the rest. Sizes depend on the values, so it cannot run under
    `jit`.

    Args:
      tree: any pytree of arrays and `quantize.Quantized`.

    Returns:
      The same containers; `trees.num_bytes` of them is what they take.

    >>> from kdjax import trees
    >>> from kdjax.compress import quantize
    >>> kernel = jnp.ones((64, 64)).at[:, 1:].set(0)
    >>> [trees.num_bytes(pack(x)) for x in (kernel, quantize.uniform(kernel, bits=4))]
    [768, 800]
    """
    return jax.tree.map(_packed, tree, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def unpack(tree: PyTree) -> PyTree:
    """Return the tree that was packed, with its `quantize.Quantized` leaves."""
    return jax.tree.map(
        lambda leaf: leaf.unpacked() if isinstance(leaf, Packed) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Packed),
    )


def _packed(leaf: Array | Quantized) -> Packed:
    if isinstance(leaf, Quantized):
        codes = np.asarray(leaf.codes)
        stays = codes != np.asarray(leaf.zero_code)
        arrays = {name: getattr(leaf, name) for name in ("scale", "levels")}
        zero = leaf.zero_point
        symmetric = zero is not None and np.all(np.asarray(zero) == _middle(leaf.bits))
        arrays["zero_point"] = None if symmetric else zero
        arrays |= _smallest(codes.ravel(), stays.ravel(), leaf.bits)
        known = {name: x for name, x in arrays.items() if x is not None}
        return Packed(known, leaf.shape, leaf.dtype, leaf.bits)
    values = np.asarray(leaf)
    stays = (values != 0) | np.signbit(values) if _is_real(values) else values == values
    arrays = _smallest(values.ravel(), stays.ravel(), None)
    if "mask" not in arrays:
        arrays["data"] = arrays["data"].reshape(values.shape)
    return Packed(arrays, values.shape, values.dtype.name, None)


def _is_real(values: np.ndarray) -> bool:
    return jnp.issubdtype(values.dtype, jnp.floating)


def _smallest(
    values: np.ndarray, stays: np.ndarray, bits: int | None
) -> dict[str, Array]:
    """Return all values, or a bitmap and those that stay, whatever takes less."""
    kept = values[stays] if stays.any() else values[:1]  # never empty: it is indexed
    width = bits or 8 * values.dtype.itemsize
    if stays.size + kept.size * width < values.size * width:
        return {"mask": jnp.packbits(jnp.asarray(stays)), "data": _data(kept, bits)}
    return {"data": _data(values, bits)}


def _data(values: np.ndarray, bits: int | None) -> Array:
    return jnp.asarray(values) if bits is None else to_bits(jnp.asarray(values), bits)


def to_bits(codes: Array, bits: int) -> Array:
    """Return codes below `2**bits`, `[n]`, as `[⌈n · bits / 8⌉]` bytes.

    >>> to_bits(jnp.array([1, 2, 3], jnp.uint8), 4)
    Array([ 18,  48], dtype=uint8)
    """
    places = jnp.arange(bits - 1, -1, -1, dtype=jnp.uint8)
    return jnp.packbits((codes[:, None] >> places[None]) & jnp.uint8(1))


def from_bits(packed: Array, bits: int, count: int | None = None) -> Array:
    """Undo `to_bits`; without a count there may be a few zeros more at the end.

    >>> from_bits(jnp.array([18, 48], jnp.uint8), 4, 3)
    Array([1, 2, 3], dtype=uint8)
    """
    count = len(packed) * 8 // bits if count is None else count
    each = jnp.unpackbits(packed, count=count * bits).reshape(count, bits)
    places = jnp.arange(bits - 1, -1, -1, dtype=jnp.uint8)
    return (each << places[None]).sum(1, dtype=jnp.uint8)
