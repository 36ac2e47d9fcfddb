"""Laws of the networks that classify sentences: dropout, bad input, edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [0, 0, 0, 0, 0]])
SIZES = {"classes": 3, "vocabulary": 10, "width": 4}
MODELS = {
    "LSTM": (models.LSTM(**SIZES, embedding=3, depth=2), "last"),
    "TextCNN": (models.TextCNN(**SIZES, windows=(1, 2, 5), channels=6), "pooled"),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model, last = MODELS[request.param]
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
    return request.param, model, last, variables


def test_dropout_works_in_training_only(case):
    _, model, _, variables = case
    model = model.clone(dropout=0.5)
    same = jnp.tile(TOKENS[:1], (2, 1))
    still = jax.jit(model.apply)(variables, same)
    np.testing.assert_array_equal(still.logits[0], still.logits[1])
    apply_in_training = jax.jit(lambda v, x, keys: model.apply(v, x, True, rngs=keys))
    moving = apply_in_training(variables, same, {"dropout": jax.random.key(1)})
    assert not np.allclose(moving.logits[0], moving.logits[1])
    embedded = moving.features["embedded"]  # taken before their dropout
    np.testing.assert_array_equal(embedded[0], embedded[1])


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (jnp.ones((2, 3)), "inputs must be integer tokens, got float32"),
        ([[1, 2]], "inputs must be integer tokens, got list"),
        (jnp.ones((2,), int), r"\[batch, tokens\], got \[2\]"),
        (jnp.ones((2, 3, 4), int), r"\[batch, tokens\], got \[2, 3, 4\]"),
    ],
)
def test_wrong_inputs_are_refused(case, inputs, match):
    name, model, _, _ = case
    with pytest.raises(ValueError, match=rf"^{name}: .*{match}"):
        model.init(jax.random.key(0), inputs)


def test_batch_of_none_half_precision_and_tokens_out_of_range(case):
    _, model, last, variables = case
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), variables)
    for params, inputs, kind in (
        (variables, TOKENS[:0], jnp.float32),
        (half, TOKENS, jnp.bfloat16),
        (variables, TOKENS[:, :1], jnp.float32),
    ):
        outputs = jax.eval_shape(model.apply, params, inputs)
        assert outputs.logits.shape == (len(inputs), 3)
        assert outputs.features[last].dtype == kind
    outside = jax.jit(model.apply)(variables, TOKENS + 9).logits
    assert np.isnan(outside[0]).all()
