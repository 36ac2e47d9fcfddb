"""Learned parts by themselves: shapes, published special cases, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.models import projectors
from kdjax.models.projectors.regressors import _fit

KEY = jax.random.key(0)
normal = functools.partial(jax.random.normal, jax.random.key(1))


def run(module, *inputs):
    return jax.jit(module.init_with_output)(KEY, *inputs)


def drawn(module, *inputs):
    """Return variables like those of `init`, which takes longer to compile."""
    rng = np.random.default_rng(0)
    given = jax.eval_shape(module.init, KEY, *inputs)
    values = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), "float32"), given
    )
    if "batch_stats" in values:
        values["batch_stats"] = jax.tree.map(jnp.abs, values["batch_stats"])
    return values


def shapes(module, inputs):
    said, _ = jax.eval_shape(module.init_with_output, KEY, inputs)
    return jax.tree.map(lambda x: x.shape, said)


@pytest.mark.parametrize("spatial", [(4,), (4, 6), (4, 2, 6)])
def test_any_number_of_spatial_axes(spatial):
    maps = jnp.ones((2, *spatial, 6))

    def like(channels, size=spatial):
        return (2, *size, channels)

    half, twice = (tuple(n // 2 for n in spatial), tuple(n * 2 for n in spatial))
    assert shapes(projectors.ConvRegressor(3), maps) == like(3)
    assert shapes(projectors.ConvRegressor(3, spatial=half), maps) == like(3, half)
    assert shapes(projectors.ConvRegressor(3, spatial=twice), maps) == like(3, twice)
    assert shapes(projectors.LinearEmbedding(5), maps) == (2, 5)
    assert shapes(projectors.VariationalRegressor(5), maps) == (like(5), (5,))
    assert shapes(projectors.Paraphraser(0.5), maps) == (like(3), like(6))
    assert shapes(projectors.Translator(3), maps) == like(3)
    assert shapes(projectors.SimKDProjector(8), maps) == like(8)
    assert shapes(projectors.ReusedClassifier(jnp.ones((6, 4))), maps) == (2, 4)
    pair = [maps, jnp.ones(like(4, half))]
    fusion = projectors.ReviewFusion((3, 5))
    assert shapes(fusion, pair) == [like(3), like(5, half)]
    weights, student, teacher = shapes(projectors.CrossLayerAttention(), (pair, pair))
    assert weights == (2, 2, 2)
    assert student == [[like(6), like(4, half)], [like(6, half), like(4, half)]]
    assert teacher == [[like(6), like(4, half)]] * 2


def test_parts_without_spatial_axes():
    rows = jnp.ones((2, 6))
    assert shapes(projectors.LinearEmbedding(5), rows) == (2, 5)
    assert shapes(projectors.VariationalRegressor(5), rows) == ((2, 5), (5,))
    assert shapes(projectors.ReusedClassifier(jnp.ones((6, 4))), rows) == (2, 4)
    maps = [jnp.ones((2, 4, 4, 3)), rows]  # knowledge review ends in pooled features
    fused = shapes(projectors.ReviewFusion((5, 7)), maps)
    assert fused == [(2, 4, 4, 5), (2, 7)]


def test_regressor_reaches_every_size():
    for size in range(1, 10):
        for wanted in range(1, 10):
            fit = _fit(size, wanted)
            spread = fit.dilation * (size - 1) + 1 + sum(fit.padding)
            assert (spread - fit.kernel) // fit.stride + 1 == wanted, (size, wanted)
            assert max(fit.padding) < fit.kernel  # no place sees padding alone
    mixed = projectors.ConvRegressor(2, spatial=(5, 4, 3))
    assert shapes(mixed, jnp.ones((1, 7, 2, 3, 4))) == (1, 5, 4, 3, 2)


def test_published_kernels_of_the_regressor():
    assert _fit(8, 4) == (3, 2, (1, 1), 1)  # 3x3, stride 2, padded by 1
    assert _fit(7, 5) == (3, 1, (0, 0), 1)  # not padded
    # A transposed convolution, 4 wide with stride 2 and padding 1: one place of the
    # input reaches four of the output, the first one before twice its index.
    module = projectors.ConvRegressor(1, spatial=(8,), relu=False)
    impulse = jnp.zeros((1, 4, 1)).at[0, 2, 0].set(1.0)
    said, _ = run(module, impulse)
    assert np.flatnonzero(said).tolist() == [3, 4, 5, 6]


def test_regressor_ends_in_a_relu_unless_told():
    maps = normal((4, 3, 2))
    for relu in (True, False):
        said, _ = run(projectors.ConvRegressor(3, relu=relu), maps)
        assert (said.min() >= 0) == relu


@pytest.mark.parametrize("variance", [5.0, 1e-3, 1e4])
def test_variance_starts_as_asked(variance):
    module = projectors.VariationalRegressor(3, hidden=4, initial_variance=variance)
    (mean, log_scale), _ = run(module, normal((2, 3, 5)))
    found = jax.nn.softplus(log_scale) + 1e-5
    np.testing.assert_allclose(found, variance, rtol=1e-4)
    teacher = normal((2, 3, 3))
    value = losses.variational_information(mean, log_scale, teacher).mean()
    squares = np.square(np.asarray(mean - teacher)).mean()
    expected = 0.5 * (squares / variance + np.log(variance))
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_map_is_rebuilt_from_the_factor_alone():
    module, maps = projectors.Paraphraser(0.5), normal((2, 4, 6))
    variables = drawn(module, maps)
    assert list(variables) == ["params"]  # no batch statistics unless asked for

    # without biases, nothing comes of nothing
    params = {
        name: {"conv": {**layer["conv"], "bias": jnp.zeros_like(layer["conv"]["bias"])}}
        for name, layer in variables["params"].items()
    }

    @jax.jit
    def sizes(params):
        return [jnp.abs(x).max() for x in module.apply({"params": params}, maps)]

    for silent, expected in (("none", [1, 1]), ("conv4", [1, 0]), ("conv3", [0, 0])):
        cut = {
            name: jax.tree.map(jnp.zeros_like, layer) if name == silent else layer
            for name, layer in params.items()
        }
        assert [size > 0 for size in sizes(cut)] == expected
    normed = jax.eval_shape(projectors.Paraphraser(norm=True).init, KEY, maps)
    assert sorted(normed) == ["batch_stats", "params"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_fusion_equals_a_numpy_reference():
    module = projectors.ABF(features=2, hidden=3)
    maps, deeper = normal((2, 4, 5)), normal((2, 2, 3))
    (_, fused), variables = run(module, maps, deeper)
    p = jax.tree.map(np.asarray, variables["params"])
    # in evaluation, with statistics of mean 0 and variance 1
    x = np.asarray(maps) @ p["inner"]["conv"]["kernel"][0] / np.sqrt(1 + 1e-5)
    y = np.repeat(np.asarray(deeper), 2, axis=1)  # the nearest place
    both = np.concatenate([x, y], -1)
    z = sigmoid(both @ p["attention"]["kernel"] + p["attention"]["bias"])
    expected = x * z[..., :1] + y * z[..., 1:]
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-6)


def test_review_goes_from_the_deepest_to_the_shallowest():
    module = projectors.ReviewFusion((2, 3))
    maps = [normal((2, 4, 5)), normal((2, 2, 6))]
    variables = drawn(module, maps)
    assert sorted(variables["params"]["fusion1"]) == ["inner", "outer"]  # no attention

    @jax.jit
    def reach(maps):
        return jax.jacrev(
            lambda maps: [m.sum() for m in module.apply(variables, maps)]
        )(maps)

    shallow, deep = reach(maps)
    assert all(np.abs(gradient).max() > 0 for gradient in shallow)
    assert np.abs(deep[1]).max() > 0
    assert np.abs(deep[0]).max() == 0


def test_attention_across_layers_is_of_each_example_alone():
    module = projectors.CrossLayerAttention(features=4)

    def maps(batch, *layers):
        return [normal((5, *layer))[:batch] for layer in layers]

    def pair(batch):
        return maps(batch, (4, 3)), maps(batch, (2, 5), (8, 2))

    variables = drawn(module, pair(2))
    apply = jax.jit(module.apply)
    weights, student, teacher = apply(variables, pair(5))
    assert weights.shape == (5, 1, 2)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert np.ptp(weights, axis=0).max() > 1e-3
    few, projected, _ = apply(variables, pair(2))
    np.testing.assert_allclose(few, weights[:2], rtol=1e-5)
    np.testing.assert_allclose(projected[0][1], student[0][1][:2], rtol=1e-4, atol=1e-6)
    # the larger is pooled before the projection where that is exact
    assert [m.shape[1] for m in student[0]] == [2, 4]
    np.testing.assert_array_equal(teacher[0][1], pair(5)[1][1])
    assert losses.semantic_calibration(weights, student, teacher).shape == (5,)


def test_reused_classifier_holds_what_it_was_given():
    kernel, bias, maps = normal((3, 4)), normal((4,)), normal((2, 5, 3))
    head = projectors.ReusedClassifier(kernel, bias)
    logits, held = run(head, maps)
    expected = np.asarray(maps).mean(1) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert list(held) == ["frozen"]
    held = jax.tree.map(jnp.zeros_like, held)  # what is held counts, not what was given
    assert not head.apply(held, maps).any()
    said, _ = run(projectors.ReusedClassifier(kernel), maps)
    np.testing.assert_allclose(said, expected - np.asarray(bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda p: p.ConvRegressor(0), "ConvRegressor: features must be > 0"),
        (lambda p: p.ConvRegressor(3, spatial=(4, 0)), "spatial must be > 0"),
        (lambda p: p.LinearEmbedding(-1), "LinearEmbedding: features must be > 0"),
        (lambda p: p.VariationalRegressor(3, hidden=0), "hidden must be > 0"),
        (lambda p: p.VariationalRegressor(3, initial_variance=0), "initial_variance"),
        (lambda p: p.Paraphraser(rate=0), "rate must be > 0"),
        (lambda p: p.Translator(0), "Translator: features must be > 0"),
        (lambda p: p.ABF(3, 0), "hidden must be > 0"),
        (lambda p: p.ReviewFusion((3, 0)), "size must be > 0"),
        (lambda p: p.ReviewFusion(32), "one number for each map, .* got 32"),
        (lambda p: p.CrossLayerAttention(factor=0), "factor must be > 0"),
        (lambda p: p.SimKDProjector(2, factor=4), "leaves no channel of 2"),
        (lambda p: p.ReusedClassifier(jnp.ones(3)), r"\[channels, classes\].*\[3\]"),
        (lambda p: p.ReusedClassifier(jnp.ones((3, 4)), jnp.ones(3)), r"and \[3\]"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(build, match):
    with pytest.raises(ValueError, match=match):
        build(projectors)


ROWS, MAPS = jnp.ones((2, 6)), jnp.ones((2, 4, 6))


@pytest.mark.parametrize(
    ("module", "inputs", "match"),
    [
        (projectors.ConvRegressor(3), ROWS, r"\*spatial, channels\].* got \[2, 6\]"),
        (projectors.ConvRegressor(3), MAPS.astype(int), "must be floating"),
        (projectors.ConvRegressor(3, spatial=(2, 2)), MAPS, r"\[2, 2\] needs as many"),
        (projectors.Paraphraser(0.1), MAPS, r"leaves no channel of \[2, 4, 6\]"),
        (projectors.ReviewFusion((3,)), [MAPS, MAPS], r"features \[3\], got 2"),
        (projectors.ReviewFusion(()), [], "got 0"),
        (projectors.CrossLayerAttention(), ([MAPS], []), "1 of the student's and 0"),
        (
            projectors.CrossLayerAttention(),
            ([MAPS], [MAPS[:, None]]),
            r"one number of spatial axes, got \[\[2, 4, 6\], \[2, 1, 4, 6\]\]",
        ),
        (projectors.ReusedClassifier(jnp.ones((3, 4))), ROWS, r"\[3, 4\] does not fit"),
        (projectors.LinearEmbedding(3), jnp.ones(3), r"got \[3\]"),
    ],
)
def test_wrong_inputs_are_refused(module, inputs, match):
    with pytest.raises(ValueError, match=match):
        shapes(module, inputs)


def test_fusion_refuses_another_width():
    with pytest.raises(ValueError, match=r"with 3 channels, got \[2, 2, 4\]"):
        projectors.ABF(2, 3).init(KEY, MAPS, jnp.ones((2, 2, 4)))
