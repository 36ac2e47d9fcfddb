"""Augmentations against plain NumPy, and how a pipeline composes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import data

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(1, 256, (64, 6, 5, 2)).astype(np.uint8)


def windows(image, padding, mode):
    """All crops of one padded image."""
    width = [(padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(image, width, mode=mode)
    h, w, _ = image.shape
    moves = range(2 * padding + 1)
    return {padded[y : y + h, x : x + w].tobytes() for y in moves for x in moves}


@pytest.mark.parametrize(("mode", "numpy"), [("zero", "constant"), ("reflect",) * 2])
def test_crops_are_windows_of_the_padded_image(mode, numpy):
    out = np.asarray(data.random_crop(KEY, IMAGES, padding=2, mode=mode))
    assert out.shape == IMAGES.shape
    assert out.dtype == np.uint8
    for before, after in zip(IMAGES, out, strict=True):
        assert after.tobytes() in windows(before, 2, numpy)


def test_shifts_reach_every_offset_and_differ_by_example():
    ones = np.zeros([400, 5, 5, 1], np.uint8)
    ones[:, 2, 2] = 1
    out = np.asarray(data.random_shift(KEY, ones, pixels=1))[..., 0]
    where = np.argwhere(out)
    assert len(where) == 400
    found, counts = np.unique(where[:, 1:], axis=0, return_counts=True)
    assert found.tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert counts.min() > 20


def test_shifts_fill_with_zero():
    out = np.asarray(data.random_shift(KEY, np.ones([64, 4, 4, 1], np.uint8), pixels=2))
    sums = out.sum((1, 2, 3))
    assert set(out.ravel().tolist()) == {0, 1}
    assert sums.min() == 4
    assert sums.max() == 16


def test_no_shift_changes_nothing():
    np.testing.assert_array_equal(data.random_shift(KEY, IMAGES, pixels=0), IMAGES)


def test_flips_mirror_about_half_of_the_images():
    out = np.asarray(data.random_flip(KEY, IMAGES))
    same = (out == IMAGES).all((1, 2, 3))
    mirrored = (out == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_normalize_is_its_formula():
    mean, std = np.array([0.25, 0.5]), np.array([0.5, 0.125])
    out = data.normalize(IMAGES, mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, (IMAGES / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_a_constant_channel_is_only_centred():
    out = data.normalize(jnp.full([1, 1, 1, 1], 51, jnp.uint8), [0.2], [0.0])
    np.testing.assert_allclose(out, 0, atol=1e-7)


def test_a_pipeline_standardises_its_own_train_split():
    task = data.load("digits")
    out = data.pipeline(task)(KEY, task.train)
    np.testing.assert_allclose(np.mean(out["image"]), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(out["image"]), 1, atol=1e-5)
    np.testing.assert_array_equal(out["label"], task.train["label"])


def test_a_pipeline_gives_each_augmentation_its_own_key():
    keys = []

    def remember(key, images):
        keys.append(jax.random.key_data(key).tolist())
        return images

    view = data.pipeline((np.zeros(2), np.ones(2)), remember, remember)
    out = view(KEY, {"image": jnp.asarray(IMAGES), "label": None, "extra": 3})
    assert keys[0] != keys[1]
    assert out["extra"] == 3


def test_equal_pipelines_are_equal():
    statistics = np.zeros(2), np.ones(2)
    one, two = (data.pipeline(statistics, data.random_flip) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != data.pipeline(statistics)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(data.random_crop, images=IMAGES, padding=-1), "padding must be >= 0"),
        (partial(data.random_crop, images=IMAGES, padding=1, mode="x"), "got 'x'"),
        (partial(data.random_crop, images=IMAGES[0], padding=1), r"got \[6, 5, 2\]"),
        (partial(data.random_shift, images=IMAGES, pixels=-1), "pixels must be >= 0"),
        (partial(data.random_flip, images=IMAGES[0]), r"got \[6, 5, 2\]"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(KEY)


def test_normalize_refuses_what_it_cannot_scale():
    with pytest.raises(ValueError, match="must be uint8, got float32"):
        data.normalize(jnp.zeros([1, 2, 2, 1]), [0], [1])
    with pytest.raises(ValueError, match=r"must be \[channels\], got \[1\] and \[2\]"):
        data.normalize(IMAGES, [0], [1, 1])
