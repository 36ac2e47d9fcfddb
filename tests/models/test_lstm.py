import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from tests.models.test_rnn import moved, sigmoid

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [0, 0, 0, 0, 0]])
SIZES = {"classes": 3, "vocabulary": 10, "width": 4}
MODEL = models.LSTM(**SIZES, embedding=3, depth=2)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(MODEL.init)(jax.random.key(0), TOKENS)


@pytest.fixture(scope="module")
def variables(fresh):
    return moved(fresh)


def direction(p, x):
    """Return the states over one sequence, in NumPy float64, step after step."""
    width = p["bias"].size // 4
    h, c, states = np.zeros(width), np.zeros(width), []
    for now in x:
        parts = (np.concatenate([h, now]) @ p["kernel"] + p["bias"]).reshape(4, width)
        i, f, g, o = sigmoid(parts[0]), sigmoid(parts[1]), parts[2], sigmoid(parts[3])
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    return np.array(states)


def reference(variables, tokens):
    """Return logits and features of one sequence without padding."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = p["embed"]["embedding"][tokens]
    features = {"embedded": x}
    for layer in (1, 2):
        ahead = direction(p[f"forward{layer}"], x)
        back = direction(p[f"backward{layer}"], x[::-1])
        x = features[f"hidden{layer}"] = np.concatenate([ahead, back[::-1]], axis=1)
    features["last"] = np.concatenate([ahead[-1], back[-1]])
    return features["last"] @ p["head"]["kernel"] + p["head"]["bias"], features


def test_outputs_equal_a_numpy_reference_without_padding(variables):
    outputs = jax.tree.map(np.asarray, apply(variables, TOKENS))
    assert list(outputs.features) == ["embedded", "hidden1", "hidden2", "last"]
    for row, real in ((0, 5), (1, 3)):
        logits, features = reference(variables, np.asarray(TOKENS)[row, :real])
        np.testing.assert_allclose(outputs.logits[row], logits, atol=1e-5)
        for name, expected in features.items():
            found = outputs.features[name][row]
            found = found if name == "last" else found[:real]
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not outputs.features["hidden2"][1, 3:].any()
    # padding alone leaves the head nothing but its bias
    bias = variables["params"]["head"]["bias"]
    np.testing.assert_array_equal(outputs.logits[2], bias)


def test_padding_changes_nothing_wherever_it_stands_and_learns_nothing(variables):
    expected = apply(variables, TOKENS).logits
    inside = jnp.array([[3, 0, 1, 4, 0, 1, 5], [0, 9, 2, 6, 0, 0, 0], [0] * 7])
    for padded in (jnp.pad(TOKENS, ((0, 0), (0, 2))), inside):
        np.testing.assert_allclose(apply(variables, padded).logits, expected, atol=1e-6)

    def loss(variables, tokens):
        return (MODEL.apply(variables, tokens).logits ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    found, same = gradient(variables, TOKENS), gradient(variables, inside)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    embedding = found["params"]["embed"]["embedding"]
    assert not embedding[0].any()
    assert embedding[1].any()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, same)


def test_it_remembers_at_first_and_rows_of_the_state_are_orthogonal(fresh):
    params = jax.tree.map(np.asarray, fresh["params"])
    for name in ("forward1", "backward2"):
        bias = params[name]["bias"].reshape(4, 4)
        np.testing.assert_array_equal(bias.sum(1), [0, 4, 0, 0])
        for gate in np.split(params[name]["kernel"], 4, axis=1):
            np.testing.assert_allclose(gate[:4] @ gate[:4].T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        *(({name: 0}, f"LSTM: {name} must be > 0, got 0") for name in SIZES),
        ({"embedding": 0}, "embedding must be > 0"),
        ({"depth": -1}, "depth must be > 0, got -1"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(changed, match):
    with pytest.raises(ValueError, match=match):
        models.LSTM(**{**SIZES, **changed})
