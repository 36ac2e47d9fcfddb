"""Running a teacher over a data set, once."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import checks, trees
from kdjax.base import Network, Select, Variables
from kdjax.teachers.cache import _files
from kdjax.teachers.cache._read import Cache, read
from kdjax.teachers.cache._settings import (
    Chosen,
    Transform,
    as_json,
    describe,
    rows_of,
    seen,
)

_STATIC = ("transform", "inputs", "chosen")
_ASKED_AGAIN = 32  # rows of a cache that is there already


def write(
    directory: str | Path,
    network: Network,
    variables: Variables,
    arrays: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    transform: Transform | None = None,
    views: int = 1,
    log_probs: str | int | None = "full",
    features: Iterable[str] = (),
    dtype: str = "float32",
    batch_size: int = 256,
    shard_rows: int = 8192,
    inputs: Select = "image",
    say: Callable[[str], None] | None = None,
) -> Cache:
    """Store what a teacher says of every view of every example.

    Call it again with the same settings to go on after an interruption or to repair
    files: it checks what is there and computes only the shards that are missing or
    damaged. A complete cache is only checked.

    Args:
      directory: where; made if need be.
      network: the teacher; it runs in evaluation mode.
      variables: of the teacher.
      arrays: a dict of arrays `[n, ...]`, those that `data.Batches` will get.
      about: JSON values that identify the cache for `read`, such as the data set's name
        and version. To them are added: `teacher`, the fingerprint of its variables,
        what `describe` finds of data and views, and `log_probs`, `features`, `dtype`.
      transform: `transform(key, batch) -> batch`, with augmentations a `data.views`;
        its batches have the int32 fields `"index"` and `"view"` besides the arrays.
      views: how many views of each example.
      log_probs: `"full"` for all classes, an int k for the k most likely ones and their
        numbers, None for none.
      features: names of the teacher's features to store.
      dtype: `"float32"`, or `"float16"` for half the space; it rounds by up to 5e-4 of
        a value. Log-probabilities below the range become its smallest number.
      batch_size: examples that the teacher sees at a time.
      shard_rows: rows that are written and checked at a time; what an interruption
        costs at most.
      inputs: the field of the batch that the network reads, or a function of it.
      say: told each shard that was written, `print` for instance.

    Returns:
      What `read` returns.

    Raises:
      ValueError: if a setting is out of range, if the directory holds a cache of other
        settings or of another network, or if the teacher says something that is not
        finite in `dtype`.
      Damaged: if the manifest of an existing cache was edited.
      RuntimeError: if another process is writing there.

    >>> import tempfile
    >>> from kdjax import networks
    >>> teacher = networks.from_function(lambda w, x: x @ w)
    >>> arrays, directory = {"image": np.eye(4)}, tempfile.TemporaryDirectory()
    >>> variables = {"params": np.ones([4, 3])}
    >>> cached = write(directory.name, teacher, variables, arrays, {"data set": "eye"})
    >>> cached.arrays["teacher/log_probs"].shape, cached.about["data set"]
    ((1, 4, 3), 'eye')
    >>> directory.cleanup()
    """
    checks.positive("cache.write", batch_size=batch_size, shard_rows=shard_rows)
    directory, chosen = Path(directory), Chosen(log_probs, features, dtype)
    known = {
        "teacher": trees.fingerprint(variables),
        **describe(arrays, transform=transform, views=views, inputs=inputs),
        **dataclasses.asdict(chosen),
    }
    full = _joined(about, known)
    given = {"transform": transform, "inputs": inputs, "chosen": chosen}
    said = functools.partial(_said, network.apply, **given)
    ask = functools.partial(_ask, said, variables, arrays, batch_size=batch_size)
    with _files.alone(directory):
        one = rows_of(arrays, np.zeros(batch_size, int), known["examples"])
        shapes = jax.eval_shape(said, variables, one)
        store = _files.load(directory) or _fresh(directory, full, shard_rows, shapes)
        _check_same(store, full, shard_rows)
        missing = _missing(store, say)
        _check_network(store, missing, ask)
        for number in missing:
            store.put(number, ask(shard := store.shards[number]))
            if say:
                say(f"cache.write: {shard.stop} of {store.shards[-1].stop} rows")
    return read(directory, full, verify=False)


@functools.partial(jax.jit, static_argnums=0, static_argnames=_STATIC)
def _said(
    apply: Callable[..., Any],
    variables: Variables,
    batch: Any,
    *,
    transform: Transform | None,
    inputs: Select,
    chosen: Chosen,
) -> dict[str, jax.Array]:
    outputs, _ = apply(variables, seen(jax.random.key(0), batch, transform, inputs))
    fields, rows = chosen.fields(outputs), len(batch["index"])
    for name, array in fields.items():
        if array.shape[:1] != (rows,):
            raise ValueError(
                f"cache.write: {name} must be [batch, ...] with a batch of {rows}, got "
                f"{list(array.shape)}"
            )
    return fields


def _joined(about: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    given, known = as_json(about), as_json(known)
    both = {name: given[name] for name in given if name in known}
    found = {name: known[name] for name in both}
    if both != found:
        raise ValueError(
            "cache.write: about contradicts what is to be written:\n"
            + trees.differences(about=both, written=found)
        )
    return {**given, **known}


def _fresh(
    directory: Path, about: dict[str, Any], shard_rows: int, shapes: dict[str, Any]
) -> _files.Store:
    """Return a store without a shard, and save that."""
    views, examples = about["views"], about["examples"]
    shards = -(-views * examples // shard_rows)
    fields = {}
    for name, array in sorted(shapes.items()):
        shape = [views, examples, *array.shape[1:]]
        fields[name] = _files.Field(array.dtype.name, shape, [None] * shards)
    store = _files.Store(directory, about, shard_rows, fields)
    store.save()
    return store


def _check_same(store: _files.Store, about: dict[str, Any], shard_rows: int) -> None:
    saved = {**store.about, "shard_rows": store.shard_rows}
    given = {**about, "shard_rows": shard_rows}
    if saved != given:
        raise ValueError(
            f"cache.write: {store.directory} holds another cache:\n"
            + trees.differences(saved=saved, given=given)
            + "\nChoose another directory, or delete this one."
        )


def _check_network(
    store: _files.Store, missing: Sequence[int], ask: Callable[[slice], Any]
) -> None:
    """Raise if the network does not say what it said: variables are not all of it."""
    sound = [shard for k, shard in enumerate(store.shards) if k not in missing]
    if not sound:
        return
    rows = slice(sound[0].start, min(sound[0].stop, sound[0].start + _ASKED_AGAIN))
    for name, now in ask(rows).items():
        then = store.rows(name, rows)
        # Numbers of classes may change places where two are as likely.
        if now.dtype.kind == "f" and not np.allclose(now, then, rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"cache.write: {store.directory} holds what another network with these "
                f"variables said: {name} differs by {np.abs(now - then).max():.3g}. "
                "Choose another directory, or delete this one."
            )


def _missing(store: _files.Store, say: Callable[[str], None] | None) -> list[int]:
    """Return the shards to compute: not yet written, or damaged since."""
    missing = set(store.unwritten())
    for name in store.fields:
        try:
            store.open(name)
        except _files.Damaged:
            store.prepare(name)
        broken = store.broken(name)
        if broken and say:
            say(
                f"cache.write: {store.path(name)}: {len(broken)} shards are damaged "
                "and computed anew"
            )
        missing.update(broken)
    return sorted(missing)


def _ask(
    said: Callable[..., dict[str, jax.Array]],
    variables: Variables,
    arrays: Mapping[str, Any],
    shard: slice,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Return what the teacher says of the rows of a shard."""
    examples, parts = len(jax.tree.leaves(dict(arrays))[0]), []
    for start in range(shard.start, shard.stop, batch_size):
        rows = np.arange(start, start + batch_size)
        real = min(batch_size, shard.stop - start)
        # Padded with its last row: one program serves all batches.
        batch = rows_of(arrays, np.minimum(rows, shard.stop - 1), examples)
        part = jax.device_get(said(variables, batch))
        part = {name: values[:real] for name, values in part.items()}
        _check_finite(part, rows, examples)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_finite(part: dict[str, np.ndarray], rows: np.ndarray, examples: int) -> None:
    for name, values in part.items():
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            view, index = divmod(int(rows[wrong[0][0]]), examples)
            raise ValueError(
                f"cache.write: {name} of example {index} in view {view} is "
                f"{values[tuple(wrong[0])]}; if the teacher is sound, it is beyond "
                f"{values.dtype}: store it as 'float32'"
            )
