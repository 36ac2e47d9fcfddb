"""The batch and the teacher of the train tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import train
from tests.train.toy import CLASSES, INPUTS, NETWORK, ROWS, apply, distance


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(ROWS, INPUTS)), jnp.float32),
        "mask": jnp.array([1, 0, 1, 1, 0, 0, 0, 1], bool),
        "label": jnp.asarray(rng.integers(CLASSES, size=ROWS)),
    }


@pytest.fixture(scope="module")
def teacher(batch):
    return NETWORK.init(jax.random.key(9), batch["image"])


@pytest.fixture(scope="module")
def step():
    return train.make_step(apply, apply, distance, optax.adam(0.1))
