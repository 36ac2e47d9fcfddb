"""A teacher that also tells what it saw, and a small cache of it."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from kdjax import data, networks
from kdjax.base import Outputs
from kdjax.teachers import cache

N, VIEWS, CLASSES = 10, 3, 4
RNG = np.random.default_rng(0)
ARRAYS = {
    "image": RNG.integers(0, 256, (N, 6, 6, 1)).astype(np.uint8),
    "label": RNG.integers(0, CLASSES, N).astype(np.int32),
}
SHIFT = partial(data.random_shift, pixels=1)
CROP = partial(data.random_crop, padding=1, mode="reflect")
VIEW = data.views(([0.5], [0.25]), CROP, data.random_flip, SHIFT, seed=2)
ABOUT = {"data set": "noise", "version": 1}
VARIABLES = {"params": jnp.asarray(RNG.normal(size=(36, CLASSES)), jnp.float32)}
LOG_PROBS, TOP, TOP_INDEX = (
    f"teacher/{name}" for name in ("log_probs", "top_k_log_probs", "top_k_index")
)


def say_and_show(weights, images):
    logits = images.reshape(len(images), -1) @ weights
    return Outputs(logits, {"seen": images, "pool/mean": images.mean((1, 2))})


TEACHER = networks.from_function(say_and_show)


def write(directory, **kwargs):
    """30 rows: 5 shards of two batches, the last ones padded."""
    options = {"transform": VIEW, "views": VIEWS, "features": ("seen", "pool/mean")}
    options |= {"batch_size": 4, "shard_rows": 7, "about": ABOUT}
    options |= {"network": TEACHER, "variables": VARIABLES, "arrays": ARRAYS, **kwargs}
    return cache.write(directory, **options)


def files(directory):
    found = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}
