import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, models, units
from tests.models.test_rnn import moved, without

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [0, 0, 0, 0, 0]])
SIZES = {"classes": 3, "vocabulary": 10, "width": 8, "heads": 4, "depth": 2}
MODEL = models.Transformer(**SIZES, hidden=6, length=7)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    return moved(jax.jit(MODEL.init)(jax.random.key(0), TOKENS))


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    """Return x Φ(x) with the published approximation of Φ by tanh."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attend(x, p, head):
    """Return one head's scores, values and output for one sequence of real tokens."""
    q, k, v = (
        x @ p[name]["kernel"][:, head] + p[name]["bias"][head]
        for name in ("query", "key", "value")
    )
    scores = q @ k.T / np.sqrt(q.shape[1])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return scores, v, weights @ v @ p["out"]["kernel"][head]


def reference(params, tokens, heads):
    """Return logits and features of one sequence without padding, in NumPy float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = params["embed"]["embedding"][tokens] + params["positions"][: len(tokens)]
    features = {"embedded": x}
    for number in (1, 2):
        p = params[f"block{number}"]
        y = norm(x, p["norm1"])
        scores, values, outs = zip(
            *(attend(y, p, head) for head in range(heads)), strict=True
        )
        x = x + sum(outs) + p["out"]["bias"]
        y = gelu(dense(norm(x, p["norm2"]), p["expand"]))
        x = x + dense(y, p["contract"])
        features[f"hidden{number}"] = x
        features[f"attention{number}"] = np.stack(scores)
        features[f"values{number}"] = np.concatenate(values, axis=1)
    pooled = norm(x, params["norm"]).mean(0)
    return dense(pooled, params["head"]), features


def test_outputs_equal_a_numpy_reference(variables):
    eager, jitted = MODEL.apply(variables, TOKENS), apply(variables, TOKENS)
    assert jitted.logits.shape == (3, 3)
    shapes = {"embedded": (3, 5, 8)}
    for number in (1, 2):
        shapes[f"hidden{number}"] = shapes[f"values{number}"] = (3, 5, 8)
        shapes[f"attention{number}"] = (3, 4, 5, 5)
    assert {name: x.shape for name, x in jitted.features.items()} == shapes
    # The second sequence is what it is without its padding.
    for row, real in ((0, 5), (1, 3)):
        tokens = np.asarray(TOKENS)[row, :real]
        logits, features = reference(variables["params"], tokens, heads=4)
        for outputs in (eager, jitted):
            np.testing.assert_allclose(outputs.logits[row], logits, atol=1e-5)
            for name, expected in features.items():
                found = np.asarray(outputs.features[name][row])
                found = found[..., :real, : expected.shape[-1]]
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_changes_nothing(variables):
    padded = jnp.pad(TOKENS, ((0, 0), (0, 2)))
    logits = apply(variables, padded).logits
    np.testing.assert_allclose(logits, apply(variables, TOKENS).logits, atol=1e-5)


def test_padding_alone_is_finite_and_so_are_gradients(variables):
    teacher = apply(variables, TOKENS).features
    real = TOKENS != 0

    def loss(variables):
        outputs = MODEL.apply(variables, TOKENS)
        q, p = outputs.features, jax.tree.map(lambda x: 2 * x, teacher)
        maps = losses.attention_map_kl(q["attention2"], p["attention2"], where=real)
        values = losses.value_relation(q["values2"], p["values2"], heads=2, where=real)
        return (outputs.logits**2).sum() + (maps + values).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    embedding = np.asarray(gradients["params"]["embed"]["embedding"])
    assert not embedding[0].any()  # nothing is learned of padding
    assert embedding[1].any()
    # Padding alone leaves the head nothing but its bias.
    logits = apply(variables, TOKENS).logits
    np.testing.assert_array_equal(logits[2], variables["params"]["head"]["bias"])


def test_dropout_works_in_training_only(variables):
    model = MODEL.clone(dropout=0.5)
    same = jnp.tile(TOKENS[:1], (2, 1))
    still = model.apply(variables, same)
    np.testing.assert_array_equal(still.logits[0], still.logits[1])
    keys = {"dropout": jax.random.key(1)}
    moving = model.apply(variables, same, train=True, rngs=keys)
    assert not np.allclose(moving.logits[0], moving.logits[1])
    # The embeddings are taken before their dropout.
    embedded = moving.features["embedded"]
    np.testing.assert_array_equal(embedded[0], embedded[1])


def test_units_can_be_silenced_and_removed(variables):
    layers = MODEL.units()
    units.check("test", variables, layers)
    sizes = {"heads1": 4, "expand1": 6, "heads2": 4, "expand2": 6}
    assert {name: layer.size for name, layer in layers.items()} == sizes
    gone = {"heads1": [0, 2], "expand1": [5], "heads2": [3], "expand2": [0, 1, 4]}
    silent, left = without(variables, layers, gone)
    small = MODEL.narrowed({"heads1": 2, "expand1": 5, "heads2": 3, "expand2": 3})
    units.check("test", left, small.units())

    expected = apply(silent, TOKENS)
    outputs = jax.jit(small.apply)(left, TOKENS)
    np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-5)
    kept = np.delete(expected.features["attention1"], gone["heads1"], axis=1)
    np.testing.assert_allclose(outputs.features["attention1"], kept, atol=1e-5)
    assert outputs.features["values1"].shape == (3, 5, 4)  # two heads of two channels
    with pytest.raises(ValueError, match="can be narrowed to 1 to 4, got 5"):
        MODEL.narrowed({"heads1": 5})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        *(({name: 0}, f"Transformer: {name} must be > 0, got 0") for name in SIZES),
        ({"hidden": 0}, "hidden must be > 0"),
        ({"length": 0}, "length must be > 0"),
        ({"heads": 3}, "heads must divide width 8, got 3"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, match):
    with pytest.raises(ValueError, match=match):
        models.Transformer(**{**SIZES, **arguments})


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (jnp.ones((2, 3)), "must be integer tokens, got float32"),
        ([[1, 2]], "must be integer tokens, got list"),
        (jnp.ones((2, 3, 1), int), r"\[batch, tokens\] .*, got \[2, 3, 1\]"),
        (jnp.ones((2, 8), int), r"at most 7 tokens \(length=\), got \[2, 8\]"),
    ],
)
def test_wrong_inputs_are_refused(inputs, match):
    with pytest.raises(ValueError, match=match):
        MODEL.init(jax.random.key(0), inputs)


def test_hidden_is_four_times_the_width_and_the_batch_may_be_empty():
    model = models.Transformer(**SIZES)
    assert model.units()["expand1"].size == 32
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), TOKENS[:0]
    )
    assert outputs.logits.shape == (0, 3)
    assert variables["params"]["block1"]["expand"]["kernel"].shape == (8, 32)
    assert variables["params"]["positions"].shape == (512, 8)
