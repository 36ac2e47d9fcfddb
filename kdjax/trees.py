"""Pytrees: stack them, pick leaves by path, count them, tell them apart."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from kdjax.base import PyTree


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack trees of one structure along a new leading axis.

    Raises:
      ValueError: if there is none, or structures or shapes of the leaves differ.

    >>> stack([{"a": jnp.zeros(2)}, {"a": jnp.ones(2)}])["a"].shape
    (2, 2)
    """
    trees = list(trees)
    if not trees:
        raise ValueError("trees.stack: needs at least one tree, got none")
    structures: list[Any] = [jax.tree.structure(tree) for tree in trees]
    first, *rest = structures
    for number, other in enumerate(rest, start=1):
        if other != first:
            raise ValueError(
                f"trees.stack: tree {number} has another structure than tree 0:\n"
                f"{other}\n{first}"
            )
    return jax.tree_util.tree_map_with_path(_stack_leaves, *trees)


def _stack_leaves(path: tuple[Any, ...], *leaves: Any) -> Any:
    shapes = sorted({np.shape(leaf) for leaf in leaves})
    if len(shapes) > 1:
        raise ValueError(f"trees.stack: {path_name(path)} has the shapes {shapes}")
    return jnp.stack(leaves)


def unstack(tree: PyTree) -> list[PyTree]:
    """Split a stacked tree along its leading axis; the inverse of `stack`.

    Raises:
      ValueError: if the leaves do not share a leading axis.

    >>> unstack({"a": jnp.zeros((2, 3))})[1]["a"].shape
    (3,)
    """
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    leading = {np.shape(leaf)[:1] for leaf in leaves}
    if len(leading) > 1 or () in leading:
        raise ValueError(
            f"trees.unstack: all leaves must share a leading axis, got {leading}"
        )
    return [structure.unflatten(row) for row in zip(*leaves, strict=True)]


def path_name(path: tuple[Any, ...]) -> str:
    """Return a leaf's path as `params/Dense_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def select(tree: PyTree, predicate: Callable[[str, Any], bool]) -> dict[str, Any]:
    """Return the leaves for which `predicate(path, leaf)` holds, by path.

    >>> select({"a": {"kernel": 1, "bias": 2}}, lambda path, _: "kernel" in path)
    {'a/kernel': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = ((path_name(path), leaf) for path, leaf in leaves)
    return {name: leaf for name, leaf in named if predicate(name, leaf)}


def count(tree: PyTree) -> int:
    """Return the number of scalars in all leaves."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: PyTree) -> int:
    """Return the memory of all leaves, in bytes; shapes with a dtype will do.

    >>> num_bytes({"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)})
    12
    """
    leaves = jax.tree.leaves(tree)
    # A NumPy array is asked itself: as a JAX array a float64 would count half.
    arrays = (leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for leaf in leaves)
    return sum(int(array.size * array.dtype.itemsize) for array in arrays)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Return the tree with its floating-point leaves in another dtype.

    >>> describe(cast({"count": jnp.arange(2), "kernel": jnp.zeros(2)}, "bfloat16"))
    {'count': 'int32[2]', 'kernel': 'bfloat16[2]'}
    """

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    return jax.tree.map(one, tree)


def to_host(tree: PyTree) -> PyTree:
    """Return the tree as NumPy arrays; random keys as their numbers.

    Arrays that are spread over several processes are gathered, one leaf at a time:
    every process has to call it, and gets the whole.
    """
    return jax.tree.map(_host, tree)


def _host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def fingerprint(tree: PyTree) -> str:
    """Return the SHA-256 of a tree: its paths, dtypes, shapes and bytes.

    Equal trees have equal fingerprints on every machine of the same byte order, and a
    single changed bit gives another one. Leaves count by path: a dataclass and a dict
    of the same fields have one fingerprint.

    Raises:
      ValueError: if a leaf is neither an array nor a number.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(path_name(path), leaf) for path, leaf in leaves]
    for name, leaf in sorted(named, key=lambda pair: pair[0]):
        array = _host(leaf)
        if array.dtype.hasobject:  # its bytes would be addresses
            raise ValueError(f"trees.fingerprint: {name} is no array: {type(leaf)}")
        header = f"{name}|{array.dtype.name}|{array.shape}|"
        digest.update(header.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def describe(tree: PyTree) -> dict[str, str]:
    """Return every leaf's dtype and shape by path.

    >>> describe({"params": {"kernel": jnp.zeros((2, 3))}})
    {'params/kernel': 'float32[2, 3]'}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def differences(most: int = 8, **described: Mapping[str, Any]) -> str:
    """Return one line for each name under which two dicts differ, at most `most`.

    >>> print(differences(saved={"a": 1, "b": 2}, wanted={"a": 1, "c": 3}))
      b: saved 2, wanted -
      c: saved -, wanted 3
    """
    (left, old), (right, new) = described.items()
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    rows = [
        f"  {name}: {left} {old.get(name, '-')}, {right} {new.get(name, '-')}"
        for name in names
    ]
    return "\n".join(rows[:most] + ["  ..."] * (len(rows) > most))
