"""What a cache is made of: the views of a data set, and which outputs are stored."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks, trees
from kdjax.base import Outputs, Select, pick

Transform = Callable[[Any, Any], Any]

EPOCH_POLICY = "epoch e, counted from 0, shows every example in view e % views"
_PROBED = 32  # examples: that all of them draw the same twice has no chance


def describe(
    arrays: Mapping[str, Any],
    *,
    transform: Transform | None = None,
    views: int = 1,
    inputs: Select = "image",
) -> dict[str, Any]:
    """Return what identifies the views of a data set, for `read` to compare.

    It needs no teacher: `cache.read(directory, cache.describe(...))`.

    Args:
      arrays: as in `write`.
      transform: as in `write`. What its attribute `about` says, a dict of JSON values,
        is part of the description; `data.views` and `data.pipeline` have it.
      views: as in `write`.
      inputs: as in `write`.

    Returns:
      A dict of JSON values: `data` (the fingerprint of the arrays), `examples`,
      `views`, `epoch_policy`, what the transform says of itself, and `first_inputs`,
      the fingerprint of what a network reads of the first examples in the last view:
      it also tells transforms apart that describe themselves alike.

    Raises:
      ValueError: if there are no examples, if `arrays` has fields `"index"` or
        `"view"`, if `views` < 1, or if what the transform makes of an example depends
        on its key and thus on the step.

    >>> describe({"image": np.zeros([5, 2])}, views=3)["examples"]
    5
    """
    checks.positive("cache.describe", views=views)
    if taken := sorted({"index", "view"} & set(arrays)):
        raise ValueError(f"cache.describe: the cache adds {taken}, arrays has it too")
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(dict(arrays))}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "cache.describe: arrays must be [n, ...] with one n of at least 1, got "
            f"{sorted(lengths)}"
        )
    examples = next(iter(lengths))[0]
    return {
        "data": trees.fingerprint(dict(arrays)),
        "examples": examples,
        "views": views,
        "epoch_policy": EPOCH_POLICY,
        **getattr(transform, "about", {}),
        "first_inputs": _first_inputs(arrays, examples, transform, views, inputs),
    }


def _first_inputs(
    arrays: Mapping[str, Any],
    examples: int,
    transform: Transform | None,
    views: int,
    inputs: Select,
) -> str:
    first = np.arange(min(examples, _PROBED)) + (views - 1) * examples
    batch = rows_of(arrays, first, examples)
    keys = jax.random.key(0), jax.random.key(1)
    one, other = (
        trees.fingerprint(seen(key, batch, transform, inputs)) for key in keys
    )
    if one != other:
        raise ValueError(
            "cache.describe: the transform draws from the key of the step, so a "
            "student would see other views than the teacher; use data.views(...), "
            "which draws from each example's index and view"
        )
    return one


def rows_of(arrays: Mapping[str, Any], rows: np.ndarray, examples: int) -> Any:
    """Return the batch of some rows: their examples, `index` and `view`."""
    view, index = np.divmod(rows, examples)
    batch = jax.tree.map(lambda array: np.asarray(array[index]), dict(arrays))
    return {**batch, "index": index.astype(np.int32), "view": view.astype(np.int32)}


@functools.partial(jax.jit, static_argnames=("transform", "inputs"))
def seen(key: Any, batch: Any, transform: Transform | None, inputs: Select) -> Any:
    """Return what a network reads of a batch."""
    batch = batch if transform is None else transform(key, batch)
    return pick(batch, inputs)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which outputs are stored, and how."""

    log_probs: str | int | None
    features: Iterable[str]
    dtype: str

    def __post_init__(self) -> None:
        """Check."""
        if isinstance(self.features, str):
            raise ValueError(
                f"cache.write: features must be several names, got {self.features!r}"
            )
        object.__setattr__(self, "features", tuple(self.features))
        k = self.log_probs
        is_number = isinstance(k, int) and not isinstance(k, bool) and k > 0
        if k not in ("full", None) and not is_number:
            raise ValueError(
                "cache.write: log_probs must be 'full', an int k >= 1 for the k most "
                f"likely classes, or None, got {k!r}"
            )
        if k is None and not self.features:
            raise ValueError("cache.write: choose log_probs or features to store")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(
                f"cache.write: dtype must be 'float32' or 'float16', got {self.dtype!r}"
            )

    def fields(self, outputs: Outputs) -> dict[str, Array]:
        """Return the chosen outputs by the names and in the dtypes they are stored."""
        if missing := sorted(set(self.features) - set(outputs.features)):
            raise ValueError(
                f"cache.write: the teacher has no features {missing}, only "
                f"{sorted(outputs.features)}; name those that it captures"
            )
        stored = {
            f"teacher/features/{name}": outputs.features[name] for name in self.features
        }
        index = {}
        if self.log_probs is not None:
            checks.logits("cache.write", logits=outputs.logits)
            log_probs = jax.nn.log_softmax(outputs.logits.astype(jnp.float32), axis=-1)
            # Finite: 0 times −inf in a divergence would not be a number.
            log_probs = jnp.maximum(log_probs, jnp.finfo(self.dtype).min)
            if self.log_probs == "full":
                stored["teacher/log_probs"] = log_probs
            else:
                best, classes = _top(log_probs, int(self.log_probs))
                stored["teacher/top_k_log_probs"] = best
                index = {"teacher/top_k_index": classes}
        return {name: a.astype(self.dtype) for name, a in stored.items()} | index


def _top(log_probs: Array, k: int) -> tuple[Array, Array]:
    if k > (classes := log_probs.shape[-1]):
        raise ValueError(
            f"cache.write: log_probs must be at most the {classes} classes, got {k}"
        )
    best, index = jax.lax.top_k(log_probs, k)
    return best, index


def as_json(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as they come back from a file, so that they compare equal."""
    try:
        return json.loads(json.dumps(dict(about)))
    except TypeError as error:
        raise ValueError(f"cache: about must hold JSON values only: {error}") from error
