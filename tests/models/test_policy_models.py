import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, models
from kdjax.models.policy import ABSENT

OBSERVED = jax.random.normal(jax.random.key(1), (5, 2, 2))
GAME = jnp.array([0, 1, 1, 0, 1])
DUELING = models.Dueling(actions=3, width=6, depth=2)
MULTITASK = models.MultiTask(actions=(2, 4), width=6)


def started(model, inputs):
    """Return variables of which none is 0, so that no bias goes untested."""
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    return jax.tree.map(lambda x: np.asarray(x) + 0.1 * np.cos(x + 1), variables)


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + layer["bias"]


def test_dueling_equals_a_numpy_reference():
    variables = started(DUELING, OBSERVED)
    outputs = DUELING.apply(variables, OBSERVED)
    p, x = variables["params"], np.asarray(OBSERVED, np.float64).reshape(5, 4)
    for layer in (1, 2):
        x = np.maximum(dense(p[f"dense{layer}"], x), 0)
        np.testing.assert_allclose(outputs.features[f"hidden{layer}"], x, atol=1e-5)
    value, advantage = (
        dense(p[f"{name}_head"], np.maximum(dense(p[name], x), 0))
        for name in ("value", "advantage")
    )
    q = value + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs.logits, q, atol=1e-5)
    np.testing.assert_allclose(outputs.features["value"], value[:, 0], atol=1e-5)
    assert list(variables) == ["params"]


def test_value_is_the_mean_of_q_and_advantages_sum_to_nothing():
    outputs = DUELING.apply(started(DUELING, OBSERVED), OBSERVED)
    value, advantage = outputs.features["value"], outputs.features["advantage"]
    np.testing.assert_allclose(outputs.logits.mean(1), value, atol=1e-6)
    np.testing.assert_allclose(advantage.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose(outputs.logits, value[:, None] + advantage, atol=1e-6)


def test_streams_of_depth_zero_read_the_observation():
    model = models.Dueling(actions=3, width=6, depth=0)
    init = model.init_with_output
    outputs, variables = jax.eval_shape(init, jax.random.key(0), OBSERVED)
    assert sorted(outputs.features) == ["advantage", "value"]
    assert variables["params"]["value"]["kernel"].shape == (4, 6)


def test_each_row_is_answered_by_its_own_games_head():
    variables = started(MULTITASK, (OBSERVED, GAME))
    outputs = MULTITASK.apply(variables, (OBSERVED, GAME))
    p, told = variables["params"], np.eye(2)[np.asarray(GAME)]
    x = np.concatenate([np.asarray(OBSERVED, np.float64).reshape(5, 4), told], 1)
    for layer in (1, 2):
        x = np.maximum(dense(p[f"dense{layer}"], x), 0)
        np.testing.assert_allclose(outputs.features[f"hidden{layer}"], x, atol=1e-5)
    for row, game in enumerate(GAME.tolist()):
        actions = (2, 4)[game]
        expected = dense(p[f"head{game}"], x[row])
        np.testing.assert_allclose(outputs.logits[row, :actions], expected, atol=1e-5)
        assert (outputs.logits[row, actions:] == ABSENT).all()


def test_a_head_learns_from_its_own_game_alone_and_absent_actions_cost_nothing():
    variables = started(MULTITASK, (OBSERVED, GAME))
    zeros = jnp.zeros(5, jnp.int32)
    q = jax.random.normal(jax.random.key(2), (5, 2))
    padded = jnp.pad(q, ((0, 0), (0, 2)), constant_values=ABSENT)

    def loss(variables):
        logits = MULTITASK.apply(variables, (OBSERVED, zeros)).logits
        both = losses.policy_kl(logits, padded), losses.q_regression(logits, padded)
        plain = (
            losses.policy_kl(logits[:, :2], q),
            losses.q_regression(logits[:, :2], q),
        )
        return sum(x.sum() for x in both), (both, plain)

    gradient, (both, plain) = jax.jit(jax.grad(loss, has_aux=True))(variables)
    for one, other in zip(both, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["params"]["head1"]))
    assert gradient["params"]["head0"]["kernel"].any()


def test_a_number_that_is_no_game_has_no_action():
    variables = started(MULTITASK, (OBSERVED, GAME))
    logits = MULTITASK.apply(variables, (OBSERVED, GAME + 2)).logits
    assert (logits == ABSENT).all()


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        ("Dueling", {"actions": 0, "width": 4}, "Dueling: actions must be > 0, got 0"),
        ("Dueling", {"actions": 2, "width": 0}, "Dueling: width must be > 0, got 0"),
        ("Dueling", {"actions": 2, "width": 4, "depth": -1}, "an integer >= 0"),
        ("MultiTask", {"actions": (), "width": 4}, "one number a game, got none"),
        ("MultiTask", {"actions": (2, 0), "width": 4}, "actions must be > 0, got 0"),
        ("MultiTask", {"actions": (2,), "width": 4, "depth": 0}, "depth must be > 0"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(model, arguments, match):
    with pytest.raises(ValueError, match=match):
        getattr(models, model)(**arguments)


@pytest.mark.parametrize(
    ("model", "inputs", "match"),
    [
        (DUELING, jnp.ones((2, 3), jnp.int32), "Dueling: observation must be floating"),
        (DUELING, jnp.ones(()), "Dueling: observations must be .* got a scalar"),
        (MULTITASK, (OBSERVED, jnp.ones(5)), "MultiTask: labels must be integer"),
        (MULTITASK, (OBSERVED, GAME[:3]), r"labels \[3\], logits \[5, 4\]"),
    ],
)
def test_wrong_inputs_are_refused(model, inputs, match):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(model.init, jax.random.key(0), inputs)


def test_batch_of_none_and_half_precision():
    none = OBSERVED[:0], GAME[:0]
    for model, inputs, width in ((DUELING, none[0], 3), (MULTITASK, none, 4)):
        init = model.init_with_output
        outputs, _ = jax.eval_shape(init, jax.random.key(0), inputs)
        assert outputs.logits.shape == (0, width)
    half = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.bfloat16), started(MULTITASK, (OBSERVED, GAME))
    )
    inputs = OBSERVED.astype(jnp.bfloat16), GAME
    assert jax.eval_shape(MULTITASK.apply, half, inputs).logits.dtype == jnp.bfloat16
