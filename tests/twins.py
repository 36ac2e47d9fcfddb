"""One small network in Linen and in NNX, with the same names and the same variables."""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from kdjax import networks
from kdjax.base import Outputs

INPUTS = jnp.linspace(-1, 1, 20).reshape(5, 4)


class LinenEncoder(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        self.sow("intermediates", "hid", x)
        return nn.Dropout(self.rate, deterministic=not train, name="drop")(x)


class LinenNet(nn.Module):
    rate: float = 0.5

    def setup(self):
        self.encoder = LinenEncoder(self.rate)
        self.shared = nn.Dense(6)
        self.head = nn.Dense(3)

    def __call__(self, x, train=False):
        x = self.shared(nn.relu(self.shared(self.encoder(x, train))))
        return Outputs(self.head(x), {"own": x})


class NnxEncoder(nnx.Module):
    def __init__(self, rate, rngs):
        self.dense = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.dense(x))
        self.sow(nnx.Intermediate, "hid", x)
        return self.drop(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs, rate=0.5):
        self.encoder = NnxEncoder(rate, rngs)
        self.shared = nnx.Linear(6, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.shared(nnx.relu(self.shared(self.encoder(x))))
        return Outputs(self.head(x), {"own": x})


def build(framework, capture=(), rate=0.5):
    """Return the network of one framework: "linen" or "nnx" (a factory)."""
    if framework == "linen":
        return networks.from_linen(LinenNet(rate), capture)
    return networks.from_nnx(lambda rngs: NnxNet(rngs, rate), capture)
