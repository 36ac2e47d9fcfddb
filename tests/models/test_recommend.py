"""Recommenders against plain NumPy, and what their scores may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from tests.models.test_rnn import moved
from tests.models.test_transformer import dense, gelu, norm

HISTORY = jnp.array([[3, 1, 4, 1, 5], [0, 0, 2, 6, 2], [0, 0, 0, 0, 0]])
SIZES = {"items": 9, "width": 8, "heads": 2, "depth": 2}
MODEL = models.SequentialRecommender(**SIZES, hidden=6, length=7)
USERS = models.Factorization(users=4, items=9, width=3)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    return moved(jax.jit(MODEL.init)(jax.random.key(0), HISTORY))


def attend(x, p, head):
    """Return one head's scores and output: each item looks at itself and before."""
    q, k, v = (
        x @ p[name]["kernel"][:, head] + p[name]["bias"][head]
        for name in ("query", "key", "value")
    )
    scores = q @ k.T / np.sqrt(q.shape[1])
    weights = np.tril(np.exp(scores))
    weights /= weights.sum(-1, keepdims=True)
    return scores, weights @ v @ p["out"]["kernel"][head]


def reference(params, history):
    """Return scores and features of one history without padding, in NumPy float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    table = params["embed"]["embedding"]
    x = table[history] + params["positions"][-len(history) :]
    features = {"embedded": x}
    for number in (1, 2):
        p = params[f"block{number}"]
        y = norm(x, p["norm1"])
        scores, outs = zip(*(attend(y, p, head) for head in (0, 1)), strict=True)
        x = x + sum(outs) + p["out"]["bias"]
        x = x + dense(gelu(dense(norm(x, p["norm2"]), p["expand"])), p["contract"])
        features[f"hidden{number}"] = x
        features[f"attention{number}"] = np.stack(scores)
    last = norm(x[-1], params["norm"])
    return table[1:] @ last, {**features, "last": last}


def test_scores_and_features_equal_a_numpy_reference(variables):
    outputs = apply(variables, HISTORY)
    assert outputs.logits.shape == (3, 9)
    # the second history is what it is without its padding
    for row, real in ((0, 5), (1, 3)):
        items = np.asarray(HISTORY)[row, 5 - real :]
        scores, features = reference(variables["params"], items)
        assert outputs.features.keys() == features.keys()
        np.testing.assert_allclose(outputs.logits[row], scores, atol=1e-5)
        for name, expected in features.items():
            found = np.asarray(outputs.features[name][row])
            if name.startswith("attention"):
                found = found[:, 5 - real :, 5 - real :]
            elif name != "last":
                found = found[5 - real :]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_in_front_changes_no_score(variables):
    padded = jnp.pad(HISTORY, ((0, 0), (2, 0)))
    scores = apply(variables, padded).logits
    np.testing.assert_allclose(
        scores[:2], apply(variables, HISTORY).logits[:2], atol=1e-5
    )


def test_no_item_looks_ahead(variables):
    before = apply(variables, HISTORY).features
    after = apply(variables, HISTORY.at[0, 3].set(7)).features
    for name in ("hidden1", "hidden2"):
        np.testing.assert_array_equal(before[name][0, :3], after[name][0, :3])
        assert (np.abs(before[name][0, 3:] - after[name][0, 3:]).max(-1) > 1e-4).all()


def test_no_history_gives_finite_scores_and_gradients(variables):
    def loss(variables):
        return jnp.square(MODEL.apply(variables, HISTORY).logits).mean()

    gradients = jax.jit(jax.grad(loss))(variables)
    assert np.isfinite(apply(variables, HISTORY).logits).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_items_are_read_and_scored_with_one_embedding():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), HISTORY)["params"]
    assert shapes["embed"]["embedding"].shape == (10, 8)
    assert shapes["positions"].shape == (7, 8)
    assert set(shapes) == {"embed", "positions", "block1", "block2", "norm"}
    narrow = models.SequentialRecommender(items=9, width=4)
    params = jax.eval_shape(narrow.init, jax.random.key(0), HISTORY)["params"]
    assert params["block1"]["expand"]["kernel"].shape == (4, 4)
    assert params["positions"].shape == (20, 4)


def test_factorization_equals_a_numpy_reference():
    users = jnp.array([2, 0, 2])
    variables = moved(jax.jit(USERS.init)(jax.random.key(0), users))
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    factors = p["user"]["embedding"][np.asarray(users)]
    outputs = USERS.apply(variables, users)
    np.testing.assert_allclose(outputs.features["user"], factors, atol=1e-6)
    expected = factors @ p["item"]["kernel"] + p["item"]["bias"]
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "inputs", "undropped"),
    [
        (MODEL.clone(depth=1), jnp.tile(HISTORY[:1], (2, 1)), "embedded"),
        (USERS, jnp.array([1, 1]), "user"),
    ],
)
def test_dropout_works_in_training_only(model, inputs, undropped):
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    model = model.clone(dropout=0.5)
    still = jax.jit(model.apply)(variables, inputs).logits
    np.testing.assert_array_equal(still[0], still[1])
    train = jax.jit(lambda *given, rngs: model.apply(*given, train=True, rngs=rngs))
    moving = train(variables, inputs, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(moving.logits[0], moving.logits[1])
    np.testing.assert_array_equal(*moving.features[undropped])


def test_a_batch_of_none_and_what_is_not_there(variables):
    assert apply(variables, HISTORY[:0]).logits.shape == (0, 9)
    beyond = apply(variables, HISTORY.at[0, 4].set(10)).logits
    assert np.isnan(beyond[0]).all()
    assert np.isfinite(beyond[1:]).all()


@pytest.mark.parametrize(
    ("model", "changes", "match"),
    [
        *((MODEL, {name: 0}, f"{name} must be > 0, got 0") for name in SIZES),
        (MODEL, {"length": 0}, "SequentialRecommender: length must be > 0"),
        (MODEL, {"hidden": 0}, "hidden must be > 0"),
        (MODEL, {"heads": 3}, "heads must divide width 8, got 3"),
        (MODEL, {"dropout": 2.0}, r"dropout must be in \[0, 1\]"),
        (USERS, {"users": 0}, "Factorization: users must be > 0, got 0"),
        (USERS, {"items": 0}, "items must be > 0"),
        (USERS, {"width": -1}, "width must be > 0"),
        (USERS, {"dropout": -0.1}, r"dropout must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(model, changes, match):
    with pytest.raises(ValueError, match=match):
        model.clone(**changes)


@pytest.mark.parametrize(
    ("model", "inputs", "match"),
    [
        (MODEL, jnp.ones((2, 3)), r"must be integers \[batch, time\], got float32"),
        (MODEL, [[1, 2]], "must be integers .* got list"),
        (MODEL, jnp.ones(3, int), r"got int32\[3\]"),
        (MODEL, jnp.ones((2, 8), int), r"1 to 7 items \(length=\), got \[2, 8\]"),
        (MODEL, jnp.ones((2, 0), int), r"1 to 7 items \(length=\), got \[2, 0\]"),
        (
            USERS,
            jnp.ones((2, 3), int),
            r"must be integers \[batch\], got int32\[2, 3\]",
        ),
        (USERS, jnp.ones(3), r"Factorization: inputs must be integers .* float32\[3\]"),
    ],
)
def test_wrong_inputs_are_refused(model, inputs, match):
    with pytest.raises(ValueError, match=match):
        model.init(jax.random.key(0), inputs)
