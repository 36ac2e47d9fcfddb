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
        if self.bits is None:
            values = self._spread(data, data.dtype.type(0), size)
            return jnp.asarray(values, self.dtype).reshape(self.shape)
        count = size if "mask" not in self.arrays else None
        data = from_bits(data, self.bits, count)
        scale, levels = self.arrays["scale"], self.arrays.get("levels")
        zero: Any = self.arrays.get("zero_point")
        if levels is None and zero is None:
            zero = np.full(scale.shape, _middle(self.bits), np.uint8)
        zeros = _numpy(data).broadcast_to(_zero_code(zero, levels), self.shape).ravel()
        codes = self._spread(data, zeros, size).reshape(self.shape)
        held = Quantized(codes, scale, zero, levels, bits=self.bits, dtype=self.dtype)
        return jax.tree.map(jnp.asarray, held)

    def _spread(self, data: Any, zero: Any, size: int) -> Any:
        """Put the values that are kept in their places, zeros elsewhere."""
        if "mask" not in self.arrays:
            return data
        numpy = _numpy(data)
        stays = numpy.unpackbits(self.arrays["mask"], count=size).astype(bool)
        place = numpy.maximum(numpy.cumsum(stays) - 1, 0)
        return numpy.where(stays, data[place], zero)


def _numpy(array: Any) -> Any:
    """Return NumPy for its arrays: what is read of a file needs no compiled program."""
    return np if isinstance(array, np.ndarray) else jnp


def _middle(bits: int) -> int:
    """The code of 0.0 on a symmetric grid, which needs not be stored."""
    return 2 ** (bits - 1) - 1


def _zero_code(zero: Any, levels: Any) -> Any:
    """The code of 0.0, in every place where there is one."""
    return zero if levels is None else abs(levels).argmin().astype(np.uint8)


def pack(tree: PyTree) -> PyTree:
    """Return the tree with every array as a `Packed`; undone by `unpack`, bit by bit.

    Codes take as many bits as they have. An array with enough zeros, quantized or not,
    is kept as a bitmap and the rest; `prune.apply` makes such zeros, `w * mask` leaves
    some of them negative, and those are kept. Sizes depend on the values, so it cannot
    run under `jit`.

    Args:
      tree: any pytree of arrays and `quantize.Quantized`. Numbers of 64 bits become
        such of 32, as in all of JAX, unless that is told otherwise.

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
        host: Any = jax.tree.map(np.asarray, leaf)
        zero = host.zero_point
        stays = host.codes != _zero_code(zero, host.levels)
        symmetric = zero is not None and np.all(zero == _middle(leaf.bits))
        arrays = {"scale": host.scale, "levels": host.levels}
        arrays["zero_point"] = None if symmetric else zero
        arrays |= _smallest(host.codes.ravel(), stays.ravel(), leaf.bits)
        known = {n: jnp.asarray(x) for n, x in arrays.items() if x is not None}
        return Packed(known, leaf.shape, leaf.dtype, leaf.bits)
    values = np.asarray(jnp.asarray(leaf))  # of a dtype that JAX has
    stays = (values != 0) | np.signbit(values) if _is_real(values) else values == values
    arrays = _smallest(values.ravel(), stays.ravel(), None)
    if "mask" not in arrays:
        arrays["data"] = arrays["data"].reshape(values.shape)
    known = {name: jnp.asarray(array) for name, array in arrays.items()}
    return Packed(known, values.shape, values.dtype.name, None)


def _is_real(values: np.ndarray) -> bool:
    return jnp.issubdtype(values.dtype, jnp.floating)


def _smallest(
    values: np.ndarray, stays: np.ndarray, bits: int | None
) -> dict[str, np.ndarray]:
    """Return all values, or a bitmap and those that stay, whatever takes less."""
    kept = values[stays] if stays.any() else values[:1]  # never empty: it is indexed
    width = bits or 8 * values.dtype.itemsize
    if stays.size + kept.size * width < values.size * width:
        return {"mask": np.packbits(stays), "data": _data(kept, bits)}
    return {"data": _data(values, bits)}


def _data(values: np.ndarray, bits: int | None) -> np.ndarray:
    return values if bits is None else to_bits(values, bits)


def to_bits(codes: Any, bits: int) -> Any:
    """Return codes below `2**bits`, `[n]`, as `[⌈n · bits / 8⌉]` bytes.

    >>> to_bits(jnp.array([1, 2, 3], jnp.uint8), 4)
    Array([18, 48], dtype=uint8)
    """
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return _numpy(codes).packbits((codes[:, None] >> places[None]) & np.uint8(1))


def from_bits(packed: Any, bits: int, count: int | None = None) -> Any:
    """Undo `to_bits`; without a count there may be a few zeros more at the end.

    >>> from_bits(jnp.array([18, 48], jnp.uint8), 4, 3)
    Array([1, 2, 3], dtype=uint8)
    """
    count = len(packed) * 8 // bits if count is None else count
    unpackbits = _numpy(packed).unpackbits
    each = unpackbits(packed, count=count * bits).reshape(count, bits)
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return (each << places[None]).sum(1, dtype=np.uint8)
