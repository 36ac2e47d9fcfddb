"""Batches whose rows lie on several devices, perhaps of several processes."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.base import Array, Padded, PyTree
from kdjax.base import rows as rows_of

Read = Callable[[Any, Any], np.ndarray]
"""`read(batches, rows) -> [batches, rows, ...]`, both slices of the axes there are."""


def automatic(sharding: NamedSharding) -> NamedSharding:
    """Return it with axes that XLA follows by itself: in types none is uneven.

    Raises:
      ValueError: if it lays out more than the batch axis.
    """
    mesh, spec = sharding.mesh, tuple(sharding.spec)
    if any(name is not None for name in spec[1:]):
        raise ValueError(
            "Batches: sharding must lay out the batch axis alone, as P('data') does, "
            f"got {sharding.spec}"
        )
    batch = PartitionSpec(spec[0] if spec else None)
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), batch)


def filled(numbers: np.ndarray, sharding: NamedSharding) -> np.ndarray:
    """Fill up the last axis of `[k, batch]`, so that devices get equal parts of it."""
    missing = -numbers.shape[1] % _parts(sharding)
    return np.pad(numbers, [(0, 0), (0, missing)], mode="edge")


def _parts(sharding: NamedSharding) -> int:
    """Count the parts that a batch axis is cut into."""
    [names] = sharding.spec
    names = (names,) if isinstance(names, str) else names or ()
    return int(np.prod([sharding.mesh.shape[name] for name in names]))


def _after(sharding: NamedSharding) -> NamedSharding:
    """Return the sharding of `[k, batch, ...]` for that of `[batch, ...]`."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def laid_out(fields: PyTree, shape: tuple[int, ...], sharding: NamedSharding) -> PyTree:
    """Return arrays `[k, batch, ...]`, of which each process reads its own rows.

    Args:
      fields: a `Read` for each array.
      shape: `(k, batch)`.
      sharding: of `[batch, ...]`.
    """
    nothing = slice(0, 0)

    def one(read: Read) -> Array:
        like = read(nothing, nothing)
        return jax.make_array_from_callback(
            (*shape, *like.shape[2:]), _after(sharding), lambda at: _read(read, at)
        )

    return jax.tree.map(one, fields)


def _read(read: Read, at: Any) -> np.ndarray:
    return read(at[0], at[1])


@functools.partial(jax.jit, static_argnames=("transform", "count", "sharding"))
def _transformed(
    raw: PyTree, key: Array, steps: Array, transform: Any, count: int, sharding: Any
) -> PyTree:
    def one(given: Any) -> PyTree:
        batch, step = given
        batch = rows_of(Padded(batch, count))
        if transform is not None:
            batch = transform(jax.random.fold_in(key, step), batch)
        return jax.tree.map(fill, batch)

    def fill(x: Array) -> Array:
        missing = -len(x) % _parts(sharding)
        padding = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
        filled = jax.numpy.pad(x, padding)
        return jax.lax.with_sharding_constraint(filled, sharding)

    if steps.ndim == 0:
        return one((jax.tree.map(lambda x: x[0], raw), steps))
    made = jax.lax.map(one, (raw, steps))
    return jax.lax.with_sharding_constraint(made, _after(sharding))


def finished(
    raw: PyTree, key: Array, steps: Any, *, transform: Any, count: int, sharding: Any
) -> Any:
    """Return raw batches transformed, each as a whole, as if on one device.

    Args:
      raw: from `laid_out`.
      key: of the transform.
      steps: `[k]`, or a single one: then the result has no leading axis.
      transform: as in `Batches`.
      count: how many of the rows are examples.
      sharding: of `[batch, ...]`.
    """
    made = _transformed(raw, key, steps, transform, count, sharding)
    return Padded(made, count) if count % _parts(sharding) else made


def epoch(
    host: PyTree,
    num_examples: int,
    batch_size: int,
    transform: Any,
    sharding: NamedSharding,
) -> Iterator[dict[str, Any]]:
    """Walk over a split as `batches.epoch` does, every batch spread over devices."""
    size, key = batch_size + -batch_size % _parts(sharding), jax.random.key(0)

    def batch(start: int) -> dict[str, Any]:
        def read(array: np.ndarray, at: slice) -> np.ndarray:
            first, stop, _ = at.indices(size)
            return part(array, start + first, stop - first)[None]

        def mask(_: Any, at: slice) -> np.ndarray:
            return (start + np.arange(size)[at] < num_examples)[None]

        fields = jax.tree.map(lambda a: lambda _, at: read(a, at), host)
        raw = laid_out(fields, (1, size), sharding)
        made = finished(
            raw, key, np.uint32(0), transform=transform, count=size, sharding=sharding
        )
        kept = laid_out(mask, (1, size), sharding)
        mask_of = finished(
            kept, key, np.uint32(0), transform=None, count=size, sharding=sharding
        )
        return {**made, "mask": mask_of}

    return map(batch, range(0, num_examples, size))


def part(array: np.ndarray, start: int, length: int) -> np.ndarray:
    """Return rows from `start` on, and zeros for those that there are not."""
    found = array[start : start + length]
    missing = length - len(found)
    if not missing:
        return found
    return np.pad(found, [(0, missing)] + [(0, 0)] * (found.ndim - 1))
