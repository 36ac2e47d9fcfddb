"""Guards of `Batches` and `epoch`: what they are given can be made batches of."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdjax import trees
from kdjax.base import PyTree


def num_examples(function: str, arrays: PyTree, batch_size: int) -> int:
    """Return how many examples the arrays `[n, ...]` hold, or raise."""
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    named = {trees.path_name(path): leaf for path, leaf in leaves}
    for name, leaf in named.items():
        if np.ndim(leaf) == 0 or leaf.dtype.kind in "OSUMm":
            raise ValueError(
                f"{function}: every array must be [n, ...] numbers, got {name!r} = "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}{list(np.shape(leaf))}"
            )
    lengths = {name: len(leaf) for name, leaf in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{function}: arrays must have one length, got {lengths}")
    if not lengths or 0 in lengths.values():
        raise ValueError(f"{function}: needs at least one example, got {lengths}")
    if batch_size < 1:
        raise ValueError(f"{function}: batch_size must be >= 1, got {batch_size}")
    return next(iter(lengths.values()))


def views(arrays: PyTree, num_examples: int, count: int | None, beside: Any) -> None:
    """Raise unless `beside` and the new fields fit the arrays of `Batches`."""
    if not isinstance(beside, Mapping):
        raise ValueError(
            "Batches: beside must be a dict of arrays, such as the .arrays of a cache; "
            f"got {type(beside).__name__}"
        )
    if count is None and not beside:
        return
    if count is None or count < 1:
        why = "" if count is not None else ", for beside holds a row for each view"
        raise ValueError(f"Batches: views must be >= 1, got {count}{why}")
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"Batches: with views, arrays must be a dict, got {type(arrays).__name__}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(beside):
        if np.shape(leaf)[:2] != (count, num_examples):
            raise ValueError(
                "Batches: every array beside must be [views, n, ...] = "
                f"[{count}, {num_examples}, ...], got {trees.path_name(path)!r} = "
                f"{list(np.shape(leaf))}"
            )
    names = [*arrays, *beside, "index", "view"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            "Batches: with views, 'index', 'view' and the fields of arrays and beside "
            f"must have different names, got {twice} twice"
        )
