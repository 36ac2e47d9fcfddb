"""A small student and teacher with two maps, and how trees are compared."""

import functools

import jax
import numpy as np
from flax import linen as nn

from kdjax import networks
from kdjax.base import Outputs

KEY = jax.random.key(7)
IMAGES = jax.random.normal(jax.random.key(1), (4, 4, 3))  # one spatial axis


class Small(nn.Module):
    """A network with two maps and batch statistics."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        raw = nn.Conv(self.width, (1,), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(raw))
        return Outputs(nn.Dense(3, name="head")(x.mean(1)), {"map": x, "raw": raw})


DROPOUT = nn.Dropout(0.5)
STUDENT, TEACHER = (networks.from_linen(Small(width)) for width in (2, 5))


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def close(one, two):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), one, two)


def applied(network, train=False):
    return jax.jit(functools.partial(network.apply, train=train))
