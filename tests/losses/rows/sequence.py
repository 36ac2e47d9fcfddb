"""Rows of the losses that go from hidden states and output kernels."""

import numpy as np

from tests.losses.law import CLASSES, Law, normal
from tests.losses.references import sequence

WIDTH = 3


def heads(rng, batch, scale):
    """Return hidden states and kernels of student and teacher."""
    hidden, kernel = (batch, WIDTH), (WIDTH, CLASSES)
    return tuple(normal(rng, s, scale**0.5) for s in (hidden, kernel, hidden, kernel))


def weighted_heads(rng, batch, scale):
    """Return the same and weights of the tokens."""
    weights = rng.uniform(0.1, 2.0, batch).astype(np.float32)
    return *heads(rng, batch, scale), weights


def total(fn):
    """Return the sum alone: it is the count that the tests of the loss look at."""
    return lambda *arrays, **settings: fn(*arrays[:4], weights=arrays[4], **settings)[0]


def alike(hidden, kernel, *others):
    return hidden, kernel, hidden, kernel, *others[2:]


FORWARD = ({"temperature": 4.0}, {})
# 8 tokens in chunks of 3: one is padding
REVERSE = ({"temperature": 2.0}, {"divergence": "reverse_kl", "chunk": 3})
MIXED = [
    ({"temperature": 2.0, "beta": beta}, {"divergence": "jensen_shannon", "chunk": 3})
    for beta in (0.1, 0.0, 1.0)
]
SHARED = {
    "floats": (0, 1, 2, 3),
    "unbatched": (1, 3),
    "at_minimum": alike,
    # logits of 1e8, and their log-ratios are slopes that the kernels of 1e4 multiply
    "gradient_bound": 1e13,
}

ROWS = [
    *(
        Law("linear_divergence", heads, sequence.linear_divergence, *setting, **SHARED)
        for setting in (FORWARD, REVERSE, *MIXED)
    ),
    *(
        Law(
            "sum_linear_divergence",
            weighted_heads,
            sequence.sum_linear_divergence,
            *setting,
            adapt=total,
            shape=(),
            values="other",
            per_example=False,
            **SHARED,
        )
        for setting in (FORWARD, REVERSE, MIXED[0])
    ),
]
