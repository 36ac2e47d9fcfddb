"""Reading a cache, and training from one."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdjax import trees
from kdjax.base import Batch, Outputs
from kdjax.teachers.cache import _files
from kdjax.teachers.cache._settings import as_json

_FEATURES = "teacher/features/"


@dataclasses.dataclass(frozen=True, eq=False)
class Cache:
    """What a teacher said.

    Attributes:
      about: what the cache was made of, in JSON values.
      num_examples: n.
      views: how many views of each example.
      arrays: by name, `[views, n, ...]`, read from disk where they are indexed:
        `"teacher/log_probs"` `[views, n, classes]`, or `"teacher/top_k_log_probs"`
        and `"teacher/top_k_index"` `[views, n, k]`; `"teacher/features/NAME"`.
    """

    about: dict[str, Any]
    num_examples: int
    views: int
    arrays: dict[str, np.ndarray]

    def view(self, number: int) -> dict[str, np.ndarray]:
        """Return one view, arrays `[n, ...]`: more fields for the arrays of a split.

        An evaluation on a cached teacher reads
        `data.epoch({**task.test, **cached.view(0)}, ...)`.
        """
        return {name: array[number] for name, array in self.arrays.items()}


def read(
    directory: str | Path,
    about: Mapping[str, Any] | None = None,
    *,
    verify: bool = True,
) -> Cache:
    """Open what `write`, or another program, has written.

    Args:
      directory: where.
      about: what the cache must be made of, in JSON values: of each name given here the
        saved value must be the same; names not given are not compared. `describe`
        finds those of data and views; `teacher` is `trees.fingerprint(variables)`.
      verify: whether all files are read once to see that nothing was edited. Without,
        only their sizes, shapes and dtypes are checked.

    Returns:
      A `Cache`, whose arrays stay on disk.

    Raises:
      FileNotFoundError: if there is no cache.
      ValueError: if it was made of something else; the message names what differs.
      RuntimeError: if it is unfinished.
      Damaged: if a file is missing, truncated or edited.

    >>> import tempfile
    >>> from kdjax import networks
    >>> from kdjax.teachers import cache
    >>> teacher = networks.from_function(lambda w, x: x @ w)
    >>> arrays, directory = {"image": np.eye(4)}, tempfile.TemporaryDirectory()
    >>> variables = {"params": np.ones([4, 3])}
    >>> _ = cache.write(directory.name, teacher, variables, arrays, {"data set": "eye"})
    >>> about = {"data set": "eye", **cache.describe(arrays)}
    >>> cache.read(directory.name, about).num_examples
    4
    >>> cache.read(directory.name, {"data set": "ear"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ... is a cache of something else:
      data set: saved eye, expected ear
    >>> directory.cleanup()
    """
    directory = Path(directory)
    store = _files.load(directory)
    if store is None:
        raise FileNotFoundError(
            f"cache.read: there is no {_files.MANIFEST} in {directory}; write the cache"
        )
    expected = as_json(about or {})
    saved = {name: store.about[name] for name in expected if name in store.about}
    if saved != expected:
        raise ValueError(
            f"cache.read: {directory} is a cache of something else:\n"
            + trees.differences(saved=saved, expected=expected)
        )
    if missing := len(store.unwritten()):
        total = len(store.shards)
        raise RuntimeError(
            f"cache.read: {directory} is unfinished: {total - missing} of {total} "
            "shards are written; call cache.write with the same settings to go on"
        )
    arrays = {name: store.open(name) for name in store.fields}
    for name in store.fields if verify else ():
        if broken := [store.shards[number] for number in store.broken(name)]:
            rows = ", ".join(f"{part.start} to {part.stop - 1}" for part in broken[:4])
            more = f" and {len(broken) - 4} more shards" if len(broken) > 4 else ""
            raise _files.damaged(store.path(name), f"rows {rows}{more} were changed")
    views, examples = store.extent
    return Cache(store.about, examples, views, dict(arrays))


def taught(
    function: Callable[[Outputs, Any, Batch], Any],
) -> Callable[[Outputs, Any, Batch], Any]:
    """Return an objective whose teacher is what the batch holds of a cache.

    Args:
      function: an objective `function(student, teacher, batch)` for `train.make_step`,
        or a measure of the same arguments for `train.make_eval`.

    Returns:
      The same for `teacher_apply=None`. Its teacher's `logits` are the batch's
      `"teacher/log_probs"`: the logits less a constant of each example, so that
      softmaxes of any temperature are the same, but squared differences of logits are
      not. They are None where only the k most likely were stored; read those from the
      batch, `losses.top_k_kl(student.logits, batch["teacher/top_k_log_probs"],
      batch["teacher/top_k_index"])`. Log-probabilities and features are float32.

    Raises:
      ValueError: when called, if the batch holds nothing of a teacher.

    >>> measure = taught(lambda student, teacher, batch: {"sum": teacher.logits.sum()})
    >>> float(measure(None, None, {"teacher/log_probs": jnp.ones([2, 3])})["sum"])
    6.0
    """

    def with_cached(student: Outputs, _: Any, batch: Batch) -> Any:
        return function(student, _outputs(batch), batch)

    return with_cached


def _outputs(batch: Batch) -> Outputs:
    stored = {
        name: jnp.asarray(batch[name]).astype(jnp.float32)
        for name in batch
        if name.startswith(_FEATURES) or name == "teacher/log_probs"
    }
    if not stored and "teacher/top_k_log_probs" not in batch:
        raise ValueError(
            "cache.taught: the batch has no field of a cached teacher, only "
            f"{sorted(batch)}; give data.Batches(..., views=cached.views, "
            "beside=cached.arrays), or cached.view(0) as fields of a split"
        )
    logits = stored.pop("teacher/log_probs", None)
    features = {name.removeprefix(_FEATURES): a for name, a in stored.items()}
    return Outputs(logits, features)
