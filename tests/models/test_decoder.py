"""The decoder: nothing looks ahead, and to go on is what to read at once is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, models
from tests.models.test_rnn import moved
from tests.models.test_transformer import attend, dense, gelu, norm

TOKENS = jnp.array([[3, 1, 4, 1, 5, 9], [9, 2, 6, 0, 0, 2]])
SIZES = {"vocabulary": 10, "width": 8, "heads": 2, "depth": 2}
MODEL = models.Decoder(**SIZES, hidden=6, length=9)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    return moved(jax.jit(MODEL.init)(jax.random.key(0), TOKENS))


def attended(x, p):
    """Return what the heads add at each place: the last of all that came before."""
    prefixes = [x[: end + 1] for end in range(len(x))]
    heads = range(SIZES["heads"])
    last = [sum(attend(y, p, head)[2][-1] for head in heads) for y in prefixes]
    return np.stack(last) + p["out"]["bias"]


def reference(params, tokens):
    """Return logits and features of one sequence in NumPy float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = params["embed"]["embedding"][tokens] + params["positions"][: len(tokens)]
    features = {}
    for number in range(2):
        p = params[f"block_{number}"]
        x = x + attended(norm(x, p["norm1"]), p)
        y = gelu(dense(norm(x, p["norm2"]), p["expand"]))
        x = x + dense(y, p["contract"])
        features[f"hidden{number + 1}"] = x
    features["last"] = last = norm(x, params["norm"])
    return last @ params["head"], features


def test_outputs_equal_a_numpy_reference(variables):
    outputs = apply(variables, TOKENS)
    assert outputs.logits.shape == (2, 6, 10)
    for row in range(2):
        logits, features = reference(variables["params"], np.asarray(TOKENS)[row])
        np.testing.assert_allclose(outputs.logits[row], logits, atol=1e-5)
        for name, expected in features.items():
            np.testing.assert_allclose(
                outputs.features[name][row], expected, atol=1e-5, err_msg=name
            )


def test_nothing_looks_ahead(variables):
    one = apply(variables, TOKENS).logits
    other = apply(variables, TOKENS.at[:, 3:].set(7)).logits
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert not np.allclose(one[:, 3:], other[:, 3:])


def test_to_go_on_is_to_read_at_once(variables):
    decode = jax.jit(lambda *given: MODEL.apply(*given, method="decode"))
    whole = apply(variables, TOKENS).logits
    logits, cache = decode(variables, TOKENS[:, :2], MODEL.empty_cache(2), 0)
    np.testing.assert_allclose(logits, whole[:, 1], atol=1e-5)
    for place in range(2, 6):
        token = TOKENS[:, place : place + 1]
        logits, cache = decode(variables, token, cache, place)
        np.testing.assert_allclose(logits, whole[:, place], atol=1e-5)


def test_logits_are_made_of_what_a_fused_loss_is_given(variables):
    outputs = apply(variables, TOKENS)
    last, kernel = outputs.features["last"], outputs.features["kernel"]
    np.testing.assert_allclose(last @ kernel, outputs.logits, atol=1e-6)
    other = jnp.flip(last, 1)
    sides = last.reshape(-1, 8), kernel, other.reshape(-1, 8), kernel
    plain = losses.soft_target_kl(outputs.logits, other @ kernel)
    fused = losses.linear_divergence(*sides).reshape(2, 6)
    np.testing.assert_allclose(fused, plain, atol=1e-5)


def test_what_is_written_follows_the_distribution(variables):
    """Steps of a model that is sure of itself are the most likely ones."""
    sure = jax.tree.map(lambda x: x, variables)
    sure["params"]["head"] = 1e4 * variables["params"]["head"]
    write = jax.jit(lambda v, key: models.generate(MODEL, v, TOKENS[:, :4], 5, key))
    written = np.asarray(write(sure, jax.random.key(0)))
    assert written.dtype == TOKENS.dtype
    np.testing.assert_array_equal(written[:, :4], TOKENS[:, :4])
    likeliest = np.asarray(apply(sure, written[:, :-1]).logits.argmax(-1))
    np.testing.assert_array_equal(written[:, 4:], likeliest[:, 3:])
    # one that is not draws anew for another key, and in its own proportions
    many = jax.vmap(lambda key: write(variables, key))
    drawn = np.asarray(many(jax.random.split(jax.random.key(1), 4000)))[:, 0, 4]
    expected = jax.nn.softmax(apply(variables, TOKENS[:, :4]).logits[0, 3])
    found = np.bincount(drawn, minlength=10) / 4000
    np.testing.assert_allclose(found, expected, atol=0.04)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 3}, "heads must divide width 8, got 3"),
        ({"depth": 0}, "depth must be > 0, got 0"),
        ({"dropout": 2.0}, r"dropout must be in \[0, 1\]"),
        ({"hidden": -1}, "hidden must be > 0, got -1"),
    ],
)
def test_sizes_that_cannot_be(change, says):
    with pytest.raises(ValueError, match=says):
        models.Decoder(**{**SIZES, **change})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (jnp.ones((2, 3)), "integer tokens, got float32"),
        (jnp.ones((2, 10), int), r"at most 9 tokens .* \[2, 10\]"),
        (jnp.ones(3, int), r"\[batch, tokens\]"),
    ],
)
def test_inputs_that_cannot_be(variables, inputs, says):
    with pytest.raises(ValueError, match=says):
        MODEL.apply(variables, inputs)


@pytest.mark.parametrize(("given", "tokens"), [(0, 3), (4, 6), (4, 0)])
def test_nothing_is_written_where_no_place_is(variables, given, tokens):
    prompt = TOKENS[:, :given]
    with pytest.raises(ValueError, match=r"generate: \w+ must be an integer"):
        models.generate(MODEL, variables, prompt, tokens, jax.random.key(0))
