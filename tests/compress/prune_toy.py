"""A network of two layers to prune while it trains beside a teacher."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import networks, objectives, train

STEPS = 10
rng = np.random.default_rng(0)
BATCH = {"image": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)}
KEY = jax.random.key(0)


def init(key, inputs):
    one, two = jax.random.split(key)
    return {
        "one": {"kernel": jax.random.normal(one, (4, 6)), "bias": jnp.zeros(6)},
        "two": {"kernel": jax.random.normal(two, (6, 3))},
    }


def apply(params, inputs):
    hidden = inputs @ params["one"]["kernel"] + params["one"]["bias"][None]
    return jax.nn.tanh(hidden) @ params["two"]["kernel"]


NETWORK = networks.from_function(apply, init)
TEACHER = NETWORK.init(jax.random.key(9), BATCH["image"])


def distance(student, teacher, batch):
    values = ((student.logits - teacher.logits) ** 2).sum(-1)
    return {"soft": objectives.masked_mean(values)}


def start(tx):
    return train.init(NETWORK, tx, KEY, BATCH["image"])


def make(tx):
    return train.make_step(NETWORK.apply, NETWORK.apply, distance, tx)


def held(tree):
    """Return a copy on the host: the next step donates its arrays."""
    return jax.tree.map(np.asarray, tree)


def trained(step, state, steps=STEPS):
    """Yield the params before each step, those after it, and the optimizer's state."""
    for _ in range(steps):
        before = held(state.params)
        state, _ = step(state, TEACHER, BATCH)
        yield before, held(state.params), held(state.opt_state)


def kernels(tree):
    return {path: tree[path[:3]]["kernel"] for path in ("one/kernel", "two/kernel")}


def assert_zero(params, mask):
    for w, stays in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        assert (w[~stays] == 0).all()
        assert (w[stays] != 0).all()
