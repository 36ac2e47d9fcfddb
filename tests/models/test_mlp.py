import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, trees

INPUTS = jnp.linspace(-1, 1, 24).reshape(2, 3, 4)


def test_layers_are_relu_of_affine_maps():
    model = models.MLP(classes=3, width=5, depth=2)
    variables = model.init(jax.random.key(0), INPUTS)
    outputs = model.apply(variables, INPUTS)

    p = jax.tree.map(np.asarray, variables["params"])
    x = np.asarray(INPUTS).reshape(2, 12)
    for layer in (1, 2):
        dense = p[f"dense{layer}"]
        x = np.maximum(x @ dense["kernel"] + dense["bias"], 0)
        np.testing.assert_allclose(outputs.features[f"hidden{layer}"], x, atol=1e-5)
    np.testing.assert_allclose(
        outputs.logits, x @ p["head"]["kernel"] + p["head"]["bias"], atol=1e-5
    )
    assert list(outputs.features) == ["hidden1", "hidden2"]
    assert list(variables) == ["params"]


def test_depth_zero_is_a_linear_classifier():
    model = models.MLP(classes=3, width=5, depth=0)
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), INPUTS
    )
    assert outputs.features == {}
    assert trees.count(variables) == 12 * 3 + 3


def test_each_dropout_works_in_training_only():
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    ones = jnp.ones((4, 50))
    for rates in ({"dropout": 0.5}, {"input_dropout": 0.5}):
        model = models.MLP(classes=3, width=100, depth=1, **rates)
        variables = model.init(keys, ones)
        still = model.apply(variables, ones)
        moving = model.apply(variables, ones, train=True, rngs=keys)
        np.testing.assert_array_equal(still.logits[0], still.logits[1])
        assert not np.allclose(moving.logits[0], moving.logits[1])
        # The feature is taken before the dropout of its own layer.
        same = np.allclose(still.features["hidden1"], moving.features["hidden1"])
        assert same == ("dropout" in rates)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"classes": 0}, "classes must be > 0"),
        ({"width": -1}, "width must be > 0"),
        ({"depth": -1}, "depth must be >= 0"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\]"),
        ({"input_dropout": -0.1}, r"input_dropout must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, match):
    with pytest.raises(ValueError, match=match):
        models.MLP(**{"classes": 3, "width": 5, **arguments})


@pytest.mark.parametrize(
    ("inputs", "match"),
    [(jnp.ones((2, 3), jnp.int32), "must be floating"), (jnp.ones(()), "scalar")],
)
def test_wrong_inputs_are_refused(inputs, match):
    with pytest.raises(ValueError, match=match):
        models.MLP(classes=3, width=5).init(jax.random.key(0), inputs)


def test_batch_of_none():
    model = models.MLP(classes=3, width=5)
    init = model.init_with_output
    outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.ones((0, 3, 4)))
    assert outputs.logits.shape == (0, 3)
