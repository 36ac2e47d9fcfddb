"""What quantization refuses, and what it makes of NaN and inf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, networks
from kdjax.compress import quantize

ARRAY = jnp.arange(12.0).reshape(3, 4)
BY_CHANNEL = {
    "uniform": lambda array, **how: quantize.uniform(array, bits=4, **how),
    "power_of_two": quantize.power_of_two,
    "nf4": quantize.nf4,
}


@pytest.mark.parametrize("name", BY_CHANNEL)
@pytest.mark.parametrize("axis", [2, -3, (0,), 1.0, True])
def test_an_axis_that_is_not_there_is_refused(name, axis):
    match = f"quantize.{name}: channel_axis must be an integer from -2 to 1, got"
    with pytest.raises(ValueError, match=match):
        BY_CHANNEL[name](ARRAY, channel_axis=axis)


@pytest.mark.parametrize("bounds", [quantize.mse, quantize.percentile, "mse", 99.9])
@pytest.mark.parametrize("function", [quantize.uniform, quantize.find_bounds])
def test_bounds_that_were_not_made_are_refused(function, bounds):
    match = rf"{function.__name__}: bounds must be .*quantize.mse\(\), got"
    with pytest.raises(ValueError, match=match):
        function(ARRAY, bits=4, bounds=bounds)


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_not_finite_shows_in_its_channel(worst, symmetric):
    """A network that has diverged must not be saved as one that has not."""
    broken = ARRAY.at[1, 2].set(worst)
    methods = [
        lambda array: quantize.uniform(array, bits=4, symmetric=symmetric),
        lambda array: quantize.uniform(array, bits=4, bounds=quantize.percentile(60)),
        lambda array: quantize.uniform(array, bits=4, bounds=quantize.mse()),
        lambda array: quantize.nf4(array),
        lambda array: quantize.power_of_two(array, channel_axis=-1),
    ]
    for method in methods:
        found = np.asarray(method(broken).dequantized())
        whole = np.asarray(method(ARRAY).dequantized())
        assert not np.isfinite(found[:, 2]).any()
        np.testing.assert_array_equal(
            np.delete(found, 2, axis=1), np.delete(whole, 2, axis=1)
        )
    assert np.isnan(quantize.kmeans(broken).dequantized()).all()


@pytest.fixture(scope="module")
def dense():
    """A module, its network, variables and inputs."""
    module, inputs = models.MLP(3, width=8, depth=1), jnp.ones((2, 5))
    network = networks.from_linen(module)
    return module, network, network.init(jax.random.key(0), inputs), inputs


def test_activations_that_cannot_be(dense):
    _, network, variables, inputs = dense
    with pytest.raises(
        ValueError, match="Activations: bits must be an integer from 2 to 8"
    ):
        quantize.Activations({}, bits=16)
    with pytest.raises(ValueError, match=r"bounds must be .*mse\(\), got mse"):
        quantize.calibrated(network, variables, [], bounds=quantize.mse)
    infinite = [{"image": inputs.at[0, 0].set(jnp.inf)}]
    with pytest.raises(ValueError, match="the range of dense1 must be finite, got"):
        quantize.calibrated(network, variables, infinite)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(flax|qwix).*")
def test_variables_of_another_module_have_no_integers(dense):
    pytest.importorskip("qwix")
    module, _, variables, inputs = dense
    for wrong in (
        variables["params"],
        {"params": {"head": variables["params"]["head"]}},
    ):
        match = r"(?s)not those of the module:.*dense1/bias: module \[8\], variables -"
        with pytest.raises(ValueError, match=match):
            quantize.integer(module, wrong, inputs)
    with pytest.raises(ValueError, match=r"must be a Linen module, .*, got Network"):
        quantize.integer(networks.from_linen(module), variables, inputs)
