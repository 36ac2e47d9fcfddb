import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, networks, trees


def shapes(model, inputs):
    """Return the shapes of the outputs and of the variables; nothing is computed."""
    return jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [
        (8, 1, 83_892),
        (20, 1, 278_324),
        (32, 1, 472_756),
        (56, 1, 861_620),
        (110, 1, 1_736_564),
        (8, 4, 1_233_540),
        (32, 4, 7_433_860),
    ],
)
def test_number_of_parameters_is_that_of_the_literature(depth, width, parameters):
    model = models.ResNet(classes=100, depth=depth, width=width)
    _, variables = shapes(model, jnp.ones((1, 32, 32, 3)))
    assert trees.count(variables["params"]) == parameters


@pytest.mark.parametrize(("side", "channels", "width"), [(8, 1, 1), (32, 3, 4)])
def test_shapes_of_logits_and_features(side, channels, width):
    model = models.ResNet(classes=10, depth=14, width=width)
    outputs, _ = shapes(model, jnp.ones((2, side, side, channels)))
    assert outputs.logits.shape == (2, 10)
    stages = {
        "stage1": (2, side, side, 16 * width),
        "stage2": (2, side // 2, side // 2, 32 * width),
        "stage3": (2, side // 4, side // 4, 64 * width),
    }
    assert {name: value.shape for name, value in outputs.features.items()} == {
        "stem": (2, side, side, max(16, 8 * width)),
        **stages,
        **{f"{name}_preact": shape for name, shape in stages.items()},
        "pooled": (2, 64 * width),
        "class_maps": (2, side // 4, side // 4, 10),
    }


def test_shortcuts_are_convolutions_only_where_the_shape_changes():
    for width, expected in ((1, {2, 3}), (4, {1, 2, 3})):
        model = models.ResNet(classes=10, depth=14, width=width)
        _, variables = shapes(model, jnp.ones((1, 8, 8, 1)))
        found = trees.select(variables["params"], lambda path, _: "shortcut/" in path)
        assert {path.split("/")[0] for path in found} == {
            f"stage{stage}_block0" for stage in expected
        }


@pytest.mark.parametrize("depth", [2, 9, 18, 52, 116, 0, -4])
def test_wrong_depth_lists_the_valid_ones(depth):
    with pytest.raises(ValueError, match=r"one of 8, 14, 20, .*, 104, 110; got"):
        models.ResNet(classes=10, depth=depth)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (jnp.ones((8, 8, 1)), r"\[batch, height, width, channels\], got \[8, 8, 1\]"),
        (jnp.ones((1, 8, 8, 1), jnp.uint8), "must be floating"),
    ],
)
def test_wrong_inputs_are_refused(inputs, match):
    with pytest.raises(ValueError, match=match):
        shapes(models.ResNet(classes=10, depth=8), inputs)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="width must be > 0"):
        models.ResNet(classes=10, depth=8, width=0)
    with pytest.raises(ValueError, match="classes must be > 0"):
        models.ResNet(classes=0, depth=8)


def batch_norm(x, params, mean, var):
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def conv(x, kernel, stride):
    """Convolve one channels-last batch, padded by half the kernel on every side."""
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - size) // stride + 1
    out = np.zeros((x.shape[0], rows, rows, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            stop_i, stop_j = i + stride * (rows - 1) + 1, j + stride * (rows - 1) + 1
            window = x[:, i:stop_i:stride, j:stop_j:stride]
            out += np.tensordot(window, kernel[i, j], axes=1)
    return out


def reference(variables, x):
    """ResNet-8 in training mode, in NumPy float64; also the statistics of the stem."""
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), variables["params"]
    )

    def norm(x, p):
        return batch_norm(x, p, x.mean((0, 1, 2)), x.var((0, 1, 2)))

    x = conv(x, params["stem"]["kernel"], 1)
    statistics = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = np.maximum(norm(x, params["stem_norm"]), 0)
    for stage in (1, 2, 3):
        p, stride = params[f"stage{stage}_block0"], 1 if stage == 1 else 2
        y = np.maximum(norm(conv(x, p["conv1"]["kernel"], stride), p["norm1"]), 0)
        y = norm(conv(y, p["conv2"]["kernel"], 1), p["norm2"])
        if "shortcut" in p:
            x = norm(conv(x, p["shortcut"]["kernel"], stride), p["shortcut_norm"])
        x = np.maximum(x + y, 0)
    pooled = x.mean((1, 2))
    return pooled @ params["head"]["kernel"] + params["head"]["bias"], statistics


def test_training_mode_equals_a_numpy_reference():
    network = networks.from_linen(models.ResNet(classes=5, depth=8))
    inputs = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    variables = jax.jit(network.init)(jax.random.key(0), inputs)
    train = jax.jit(functools.partial(network.apply, train=True))
    outputs, updated = train(variables, inputs)

    logits, (mean, var) = reference(variables, np.asarray(inputs, np.float64))
    np.testing.assert_allclose(outputs.logits, logits, rtol=2e-4, atol=2e-4)
    stem = updated["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(stem["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stem["var"], 0.9 + 0.1 * var, rtol=1e-4)
    assert outputs.features["stem"].min() == 0
    for name in ("stage1", "stage2", "stage3"):
        before, after = outputs.features[f"{name}_preact"], outputs.features[name]
        assert before.min() < 0
        np.testing.assert_array_equal(after, np.maximum(before, 0))
    maps = outputs.features["class_maps"]
    np.testing.assert_allclose(maps.mean((1, 2)), outputs.logits, rtol=1e-4, atol=1e-5)

    kernel = np.asarray(variables["params"]["stage3_block0"]["conv1"]["kernel"])
    expected = np.sqrt(2 / (3 * 3 * 64))  # He-normal over the fan out
    np.testing.assert_allclose(kernel.std(), expected, rtol=0.02)
