"""Batches as a pure function of the step: seeded, randomly accessible, resumable."""

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from kdjax.base import Array, PyTree
from kdjax.data import _checks, _spread

Transform = Callable[[Array, Any], Any]

# A stream of its own: a training state made from the same seed folds in the step, too.
_STREAM = zlib.crc32(b"kdjax.data")


class Batches:
    """An endless stream of batches that depends on nothing but the seed and the step.

    The examples come in the order of one random permutation after the other, and batch
    `step` is rows `[step * batch_size, (step + 1) * batch_size)` of it: nothing is
    dropped, every example is seen once an epoch, and a batch may straddle two epochs.
    The position is just the step, so there is no iterator to checkpoint: a run that is
    resumed at `step` goes on with `batches[step]`, bit for bit.

    Args:
      arrays: a dict (or any pytree) of arrays `[n, ...]`; fields that the transform
        does not know travel along.
      batch_size: examples in a batch; may exceed `n`.
      seed: of the order and of the transform's keys, in `[0, 2**32)`.
      transform: pure `transform(key, batch) -> batch`, hashable, compiled; its key
        differs from step to step. None leaves the arrays as they are.
      sharding: how the batch axis is laid out over devices, such as
        `NamedSharding(mesh, P("data"))`. The arrays then stay on the host, and each
        process reads only the rows of its own devices. A batch that does not divide
        evenly is filled up, a `base.Padded`; `train.make_step` leaves the filling out.
      device_bytes: arrays up to this size, together with those beside them, are put on
        the device once and gathered there; larger ones stay on the host and travel
        batch by batch.
      views: how many views of each example there are. Every batch then has the int32
        fields `"index"`, rows of the arrays, and `"view"`: epoch e, counted from 0,
        shows every example in view `e % views`. The transform gets both.
      beside: a dict of arrays `[views, n, ...]` with what is known of each view, such
        as `teachers.cache.Cache.arrays`. A batch has their rows as further fields.

    Raises:
      ValueError: if there are no examples, if arrays differ in length or are not
        numbers, if `batch_size`, `seed`, `views` or a step is out of range, if `beside`
        has other leading axes or comes without `views`, or if a field comes twice.

    >>> batches = Batches({"label": np.arange(10)}, batch_size=4, seed=0)
    >>> batches[7]["label"].shape, batches.chunk(7, 3)["label"].shape
    ((4,), (3, 4))
    >>> stored = {"teacher/log_probs": np.zeros([2, 10, 3])}
    >>> batches = Batches({"label": np.arange(10)}, 5, views=2, beside=stored)
    >>> [int(batches[step]["view"][0]) for step in range(6)]
    [0, 0, 1, 1, 0, 0]
    """

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        *,
        seed: int = 0,
        transform: Transform | None = None,
        sharding: NamedSharding | None = None,
        device_bytes: int = 2**30,
        views: int | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Place small arrays on the device, keep large ones on the host."""
        self.num_examples = _checks.num_examples("Batches", arrays, batch_size)
        if not 0 <= seed < 2**32:
            raise ValueError(f"Batches: seed must be in [0, 2**32), got {seed}")
        beside = {} if beside is None else beside
        _checks.views(arrays, self.num_examples, views, beside)
        beside = dict(beside)
        self.batch_size = batch_size
        self.seed = seed
        self._views = views
        self._transform = transform
        self._sharding = None if sharding is None else _spread.automatic(sharding)
        self._key = jax.random.fold_in(jax.random.key(seed), _STREAM)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves((arrays, beside)))
        self._on_device = size <= device_bytes and sharding is None
        # Copied to the device: device_put would keep looking at the caller's memory.
        place = jnp.array if self._on_device else np.asarray
        self._arrays = jax.tree.map(place, arrays)
        self._beside = jax.tree.map(place, beside)
        # Two epochs: the ones that a batch may straddle.
        self._permutation = functools.lru_cache(maxsize=2)(
            functools.partial(_permutation, self.num_examples, seed)
        )

    def indices(self, step: int) -> np.ndarray:
        """Return which examples batch `step` holds, int32 `[batch_size]`."""
        return self._rows(step, 1)

    def __getitem__(self, step: int) -> Any:
        """Return batch `step`, leaves `[batch_size, ...]`."""
        if self._sharding is not None:
            return self._spread(step, 1, alone=True)
        arrays, rows, beside, view = self._source(step, 1)
        step_number, transform = np.uint32(step), self._transform
        return _one(arrays, rows, self._key, step_number, transform, beside, view)

    def chunk(self, step: int, k: int) -> Any:
        """Return batches `step` to `step + k - 1`, leaves `[k, batch_size, ...]`.

        It is made by one compiled call, for a `scan` of k training steps, and equals
        `batches[step], ..., batches[step + k - 1]` bit for bit.
        """
        if k < 1:
            raise ValueError(f"Batches.chunk: k must be >= 1, got {k}")
        if self._sharding is not None:
            return self._spread(step, k)
        arrays, rows, beside, view = self._source(step, k)
        shape, transform = (k, self.batch_size), self._transform
        rows, view = jax.tree.map(lambda x: x.reshape(shape), (rows, view))
        steps = np.arange(step, step + k, dtype=np.uint32)
        return _many(arrays, rows, self._key, steps, transform, beside, view)

    def __iter__(self) -> Iterator[Any]:
        """Yield all batches from step 0 on, without end."""
        return (self[step] for step in itertools.count())

    def _rows(self, step: int, k: int) -> np.ndarray:
        if step < 0:
            raise ValueError(f"Batches: step must be >= 0, got {step}")
        position, stop = step * self.batch_size, (step + k) * self.batch_size
        parts = []
        while position < stop:
            epoch_number, start = divmod(position, self.num_examples)
            part = self._permutation(epoch_number)[start : start + stop - position]
            parts.append(part)
            position += len(part)
        return np.concatenate(parts)

    def _source(
        self, step: int, k: int
    ) -> tuple[PyTree, np.ndarray, PyTree, np.ndarray | None]:
        """Return arrays and rows of them, what is beside them, and views of that."""
        rows, view = self._rows(step, k), self._view(step, k)
        if self._on_device:
            return self._arrays, rows, self._beside, view
        # The program is the one of the device: it finds the gathered rows in order.
        gathered = jax.tree.map(lambda array: array[rows], self._arrays)
        if view is not None:
            beside = jax.tree.map(lambda array: array[view, rows], self._beside)
            gathered = {**gathered, **beside, "index": rows, "view": view}
        return gathered, np.arange(len(rows), dtype=np.int32), {}, None

    def _view(self, step: int, k: int) -> np.ndarray | None:
        """Return each position's view: of its epoch, for a batch may straddle two."""
        if self._views is None:
            return None
        start, stop = step * self.batch_size, (step + k) * self.batch_size
        epochs = np.arange(start, stop) // self.num_examples
        return (epochs % self._views).astype(np.int32)

    def _spread(self, step: int, k: int, alone: bool = False) -> Any:
        """Return batches whose rows lie on several devices."""
        assert self._sharding is not None
        shape = (k, self.batch_size)
        rows = _spread.filled(self._rows(step, k).reshape(shape), self._sharding)
        fields = jax.tree.map(lambda array: lambda *at: array[rows[at]], self._arrays)
        view = self._view(step, k)
        if view is not None:
            views = _spread.filled(view.reshape(shape), self._sharding)
            beside = {
                name: lambda *at, a=array: a[views[at], rows[at]]
                for name, array in self._beside.items()
            }
            own = {"index": lambda *at: rows[at], "view": lambda *at: views[at]}
            fields = {**fields, **beside, **own}
        steps = np.arange(step, step + k, dtype=np.uint32)
        raw = _spread.laid_out(fields, rows.shape, self._sharding)
        return _spread.finished(
            raw,
            *(self._key, steps[0] if alone else steps),
            transform=self._transform,
            count=self.batch_size,
            sharding=self._sharding,
        )


def epoch(
    arrays: PyTree,
    batch_size: int,
    transform: Transform | None = None,
    *,
    sharding: NamedSharding | None = None,
) -> Iterator[dict[str, Any]]:
    """Walk over a split once, in order, in batches of one shape; for evaluation.

    The last batch is padded with zeros before the transform, and `batch["mask"]` says
    which rows are real: average with it, or the padding counts.

    Args:
      arrays: a dict of arrays `[n, ...]`.
      batch_size: rows in every batch; with a sharding, the next number that divides.
      transform: as in `Batches`; its key is the same for every batch.
      sharding: as in `Batches`.

    Returns:
      An iterator over `ceil(n / batch_size)` batches, each with `"mask"`, bool
      `[batch_size]`, besides the fields of the transform.

    Raises:
      ValueError: as `Batches` does, and if there is a field `"mask"` already.

    >>> [int(b["mask"].sum()) for b in epoch({"label": np.arange(5)}, batch_size=3)]
    [3, 2]
    """
    num_examples = _checks.num_examples("epoch", arrays, batch_size)
    if "mask" in arrays:
        raise ValueError("epoch: the field 'mask' is epoch's own, got one in arrays")
    host = jax.tree.map(np.asarray, arrays)
    if sharding is not None:
        sharding = _spread.automatic(sharding)
        return _spread.epoch(host, num_examples, batch_size, transform, sharding)
    rows, key = np.arange(batch_size, dtype=np.int32), jax.random.key(0)

    def batch(start: int) -> dict[str, Any]:
        part = jax.tree.map(lambda a: _spread.part(a, start, batch_size), host)
        made = _one(part, rows, key, np.uint32(0), transform)
        return {**made, "mask": jnp.asarray(start + rows < num_examples)}

    return map(batch, range(0, num_examples, batch_size))


def _permutation(num_examples: int, seed: int, epoch_number: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch_number]).permutation(num_examples)
    return order.astype(np.int32)


@functools.partial(jax.jit, static_argnames="transform")
def _one(
    arrays: PyTree,
    rows: Array,
    key: Array,
    step: Array,
    transform: Transform | None,
    beside: PyTree = None,
    view: Array | None = None,
) -> Any:
    batch = jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), arrays)
    if view is not None:
        at = view, rows
        seen = jax.tree.map(lambda a: a.at[at].get(mode="promise_in_bounds"), beside)
        batch = {**batch, **seen, "index": rows, "view": view}
    if transform is None:
        return batch
    return transform(jax.random.fold_in(key, step), batch)


@functools.partial(jax.jit, static_argnames="transform")
def _many(
    arrays: PyTree,
    rows: Array,
    key: Array,
    steps: Array,
    transform: Transform | None,
    beside: PyTree,
    view: Array | None,
) -> Any:
    # Not vmap: the body is the program of a single batch, and so are its bits.
    return jax.lax.map(
        lambda x: _one(arrays, x[0], key, x[1], transform, beside, x[2]),
        (rows, steps, view),
    )
