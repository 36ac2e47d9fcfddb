"""Parts that are computed again: the same numbers, less kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals

from kdjax import models, networks, trees

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(1, 20, size=(4, 12)))
NETWORKS = {
    "resnet": (networks.from_linen(models.ResNet(3, depth=8)), IMAGES),
    "captured": (
        networks.from_linen(models.ResNet(3, depth=8), capture=("stage2", "stem")),
        IMAGES,
    ),
    "transformer": (
        networks.from_linen(
            models.Transformer(3, vocabulary=20, depth=2, width=16, heads=2, length=12)
        ),
        TOKENS,
    ),
    "mlp": (networks.from_linen(models.MLP(3, width=16, depth=2, dropout=0.5)), IMAGES),
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    network, inputs = NETWORKS[request.param]
    return request.param, network, networks.remat(network), inputs


def loss_of(network, inputs, features=()):
    def loss(params, rest):
        variables = {"params": params, **rest}
        key = jax.random.key(7)
        outputs, after = network.apply(variables, inputs, train=True, rngs=key)
        read = [outputs.logits, *(outputs.features[name] for name in features)]
        return sum((x**2).mean() for x in read), after

    return loss


def test_the_numbers_are_the_same_and_less_is_kept(pair):
    name, plain, again, inputs = pair
    variables = plain.init(jax.random.key(0), inputs)
    assert trees.describe(again.init(jax.random.key(0), inputs)) == trees.describe(
        variables
    )
    rest = dict(variables)
    params = rest.pop("params")
    features = ("stage2", "stem") if name == "captured" else ()
    losses = [loss_of(network, inputs, features) for network in (plain, again)]
    found = [
        jax.jit(jax.value_and_grad(loss, has_aux=True))(params, rest) for loss in losses
    ]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def kept(loss):
        residuals = saved_residuals(lambda params: loss(params, rest)[0], params)
        own = [shape for shape, source in residuals if "argument" not in source]
        return trees.num_bytes(own)

    assert kept(losses[1]) < kept(losses[0]) * (0.3 if name == "transformer" else 1)


def test_evaluation_and_what_is_captured_stay_as_they_are(pair):
    _, plain, again, inputs = pair
    variables = plain.init(jax.random.key(0), inputs)
    one, other = (network.apply(variables, inputs)[0] for network in (plain, again))
    assert trees.fingerprint(one) == trees.fingerprint(other)


def test_parts_are_named_by_patterns():
    network, inputs = NETWORKS["mlp"]
    variables = network.init(jax.random.key(0), inputs)

    def program(network):
        def forward(variables):
            key = jax.random.key(0)
            return network.apply(variables, inputs, train=True, rngs=key)[0].logits

        return str(jax.make_jaxpr(forward)(variables))

    assert "remat" in program(networks.remat(network))
    assert "remat" not in program(networks.remat(network, ("nowhere/*",)))
    assert "remat" not in program(network)


def test_a_single_string_is_refused():
    with pytest.raises(ValueError, match=r"parts must be several, got '\*' alone"):
        networks.remat(NETWORKS["mlp"][0], "*")
