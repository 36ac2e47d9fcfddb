"""What a checkpoint is restored like: shapes, dtypes, where the arrays shall lie."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax import processes, trees
from kdjax.base import PyTree


def described(found: PyTree, shapes: Mapping[str, str]) -> PyTree:
    """Return the tree that a checkpoint holds as shapes and dtypes."""
    implementations = ("threefry2x32", "rbg", "unsafe_rbg")
    keys = [jax.random.key(0, impl=name).dtype for name in implementations]

    def one(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        said = shapes.get(trees.path_name(path), "")
        for dtype in keys:
            if said.startswith(f"{dtype}["):  # a random key, stored as its numbers
                return jax.ShapeDtypeStruct(leaf.shape[:-1], dtype)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, found)


def target(leaf: Any) -> Any:
    """Return what orbax restores a leaf like: where it lies, or here.

    Without a sharding orbax would take that of the processes and devices that saved it.
    """
    struct = ocp.utils.to_shape_dtype_struct(leaf)
    if getattr(struct, "sharding", None) is not None:
        return struct
    if processes.several():
        if not jax.dtypes.issubdtype(struct.dtype, jax.dtypes.prng_key):
            return np.empty(struct.shape, struct.dtype)
        mesh = Mesh(jax.devices(), ("all",))  # NumPy knows no random keys
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=everywhere)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=here)
