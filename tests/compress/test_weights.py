"""Which leaves are compressed by default, and which units go at random."""

import jax
import jax.numpy as jnp
import pytest

from kdjax import compress
from kdjax.compress import prune
from kdjax.units import Place, Units


def test_random_units_go_alike_whatever_their_layers():
    params = {"small": jnp.ones((4, 100)), "large": jnp.ones((1000, 100))}
    layers = {n: Units(100, (Place(f"params/{n}", 1),), ()) for n in params}
    score = prune.random(jax.random.key(0))
    kept = prune.structured(
        {"params": params}, layers, 0.5, score=score, scope="global"
    )
    left = prune.sizes(kept)
    assert sum(left.values()) == 100
    assert all(30 < size < 70 for size in left.values())  # 4 standard deviations


@pytest.mark.parametrize(
    ("path", "chosen"),
    [
        ("params/dense/kernel", True),
        ("attention/query/bias", False),  # [heads, dim]
        ("loop/norm/scale", False),  # [layers, width]
        ("gru/candidate_bias", False),
        ("dense/kernel/value", True),  # of an NNX state
        ("attention/bias/value", False),
        ("norm/scale/value", False),
        ("upscale/kernel", True),
    ],
)
def test_biases_and_norms_stay_out_whatever_their_axes(path, chosen):
    assert compress.weights(path, jnp.ones((2, 3))) is chosen
