import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax import models
from kdjax.models.convolution import Convolution
from tests.models.test_rnn import moved

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [0, 0, 0, 0, 0]])
SIZES = {"classes": 3, "vocabulary": 10, "width": 4}
MODEL = models.TextCNN(**SIZES, windows=(1, 2, 5), channels=6)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    return moved(jax.jit(MODEL.init)(jax.random.key(0), TOKENS))


def reference(variables, tokens):
    """Return logits and features of one sequence without padding, window by window."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = p["embed"]["embedding"][tokens]
    maps = []
    for number in (1, 2, 3):
        kernel = p[f"conv{number}"]["kernel"]
        rows = np.tile(p[f"conv{number}"]["bias"], (len(x), 1))
        for t in range(len(x)):
            for k, weights in enumerate(kernel):
                at = t + k - (len(kernel) - 1) // 2
                if 0 <= at < len(x):
                    rows[t] += x[at] @ weights
        maps.append(np.maximum(rows, 0))
    hidden = np.concatenate(maps, axis=1)
    pooled = hidden.max(axis=0)
    logits = pooled @ p["head"]["kernel"] + p["head"]["bias"]
    return logits, {"embedded": x, "hidden1": hidden, "pooled": pooled}


def test_outputs_equal_a_numpy_reference_without_padding(variables):
    outputs = jax.tree.map(np.asarray, apply(variables, TOKENS))
    assert list(outputs.features) == ["embedded", "hidden1", "pooled"]
    for row, real in ((0, 5), (1, 3)):
        logits, features = reference(variables, np.asarray(TOKENS)[row, :real])
        np.testing.assert_allclose(outputs.logits[row], logits, atol=1e-5)
        for name, expected in features.items():
            found = outputs.features[name][row]
            found = found if name == "pooled" else found[:real]
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not outputs.features["hidden1"][1, 3:].any()
    # padding alone leaves the head nothing but its bias
    bias = variables["params"]["head"]["bias"]
    np.testing.assert_array_equal(outputs.logits[2], bias)


@pytest.mark.parametrize("window", [2, 7])
def test_the_convolution_is_that_of_flax(window):
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    ours, flax = Convolution(4, window), nn.Conv(4, (window,))
    variables = moved(ours.init(jax.random.key(1), x))
    found, expected = ours.apply(variables, x), flax.apply(variables, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, jax.eval_shape(flax.init, jax.random.key(1), x)
    )


def test_padding_changes_nothing_and_learns_nothing(variables):
    padded = jnp.pad(TOKENS, ((0, 0), (0, 3)))
    expected = apply(variables, TOKENS).logits
    np.testing.assert_allclose(apply(variables, padded).logits, expected, atol=1e-6)

    def loss(variables, tokens):
        return (MODEL.apply(variables, tokens).logits ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    found, same = gradient(variables, TOKENS), gradient(variables, padded)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    embedding = found["params"]["embed"]["embedding"]
    assert not embedding[0].any()
    assert embedding[1].any()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, same)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        *(({name: 0}, f"TextCNN: {name} must be > 0, got 0") for name in SIZES),
        ({"channels": 0}, "channels must be > 0"),
        ({"windows": ()}, "windows must be at least one size"),
        ({"windows": (3, 0)}, "windows must be an integer >= 1, got 0"),
        ({"dropout": -1}, r"dropout must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(changed, match):
    with pytest.raises(ValueError, match=match):
        models.TextCNN(**{**SIZES, **changed})
