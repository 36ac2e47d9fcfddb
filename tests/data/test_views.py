"""Views: the same bits of view k of example i, wherever and whenever it is shown."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import data

N, BATCH, VIEWS = 10, 4, 3
RNG = np.random.default_rng(0)
ARRAYS = {
    "image": RNG.integers(0, 256, (N, 6, 6, 2)).astype(np.uint8),
    "label": np.arange(N, dtype=np.int32),
}
BESIDE = {
    "teacher/log_probs": RNG.normal(size=(VIEWS, N, 5)).astype(np.float16),
    "teacher/features/a": np.arange(VIEWS * N).reshape(VIEWS, N, 1, 1) % 127,
}
STATISTICS = [0.5, 0.4], [0.25, 0.2]
AUGMENTATIONS = partial(data.random_crop, padding=2, mode="reflect"), data.random_flip
VIEW = data.views(STATISTICS, *AUGMENTATIONS, seed=5)
SEEN = jax.jit(VIEW)


def batches(**kwargs):
    options = {"transform": VIEW, "views": VIEWS, "beside": BESIDE, **kwargs}
    return data.Batches(ARRAYS, BATCH, seed=3, **options)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert jax.tree.structure(one) == jax.tree.structure(other)


def view(index, number):
    """The views of some examples by themselves."""
    index, number = (jnp.asarray(x, jnp.int32) for x in (index, number))
    batch = {"image": ARRAYS["image"][np.asarray(index)], "index": index}
    return np.asarray(SEEN(None, {**batch, "view": number})["image"])


@pytest.fixture(scope="module")
def stream():
    return batches()


def test_a_view_depends_on_seed_example_and_number_alone():
    four = view([4, 7, 7, 0], [1, 2, 0, 2])
    np.testing.assert_array_equal(view([7], [2])[0], four[1])
    of_one = view([7] * N, range(N))
    np.testing.assert_array_equal(of_one[[2, 0]], four[[1, 2]])
    assert len({image.tobytes() for image in of_one}) > 5
    other = jax.jit(data.views(STATISTICS, *AUGMENTATIONS, seed=6))
    batch = {"image": ARRAYS["image"], "index": jnp.arange(N), "view": jnp.arange(N)}
    assert (other(None, batch)["image"] != SEEN(None, batch)["image"]).any()


def test_examples_with_equal_pixels_have_views_of_their_own():
    same = {"image": np.tile(ARRAYS["image"][:1], (N, 1, 1, 1))}
    batch = {**same, "index": jnp.arange(N), "view": jnp.zeros(N, jnp.int32)}
    images = np.asarray(SEEN(None, batch)["image"])
    assert len({image.tobytes() for image in images}) > 5


def test_a_view_is_a_window_and_normalised_as_in_a_pipeline():
    plain = data.views(STATISTICS)
    batch = {"image": ARRAYS["image"], "index": jnp.arange(N), "view": jnp.arange(N)}
    expected = data.pipeline(STATISTICS)(None, batch)
    equal(plain(None, batch), expected)


def test_batches_show_each_position_in_the_view_of_its_epoch(stream):
    for step in range(20):  # eight epochs of 2.5 batches
        batch = stream[step]
        epochs = (step * BATCH + np.arange(BATCH)) // N
        np.testing.assert_array_equal(batch["view"], epochs % VIEWS)
        np.testing.assert_array_equal(batch["index"], stream.indices(step))
        np.testing.assert_array_equal(batch["label"], batch["index"])
        np.testing.assert_array_equal(
            batch["image"], view(batch["index"], batch["view"])
        )
        for name, stored in BESIDE.items():
            at = np.asarray(batch["view"]), np.asarray(batch["index"])
            np.testing.assert_array_equal(batch[name], stored[at])
            assert batch[name].dtype == jnp.asarray(stored).dtype
    assert batch["index"].dtype == batch["view"].dtype == jnp.int32


def test_chunks_and_the_host_give_the_same_bits(stream, tmp_path):
    for name, array in BESIDE.items():
        np.save(tmp_path / name.replace("/", "-"), array)
    mapped = {
        name: np.load(tmp_path / f"{name.replace('/', '-')}.npy", mmap_mode="r")
        for name in BESIDE
    }
    small = sum(array.nbytes for array in ARRAYS.values())
    host = batches(beside=mapped, device_bytes=small)  # what is beside counts, too
    assert isinstance(host._arrays["image"], np.ndarray)
    chunk = stream.chunk(1, 3)
    equal(host.chunk(1, 3), chunk)
    for i in range(3):
        equal(host[1 + i], stream[1 + i])
        equal(jax.tree.map(lambda a, i=i: a[i], chunk), stream[1 + i])


def test_views_change_neither_order_nor_fields_of_batches(stream):
    plain, numbered = (batches(transform=None, beside=None, views=v) for v in (None, 2))
    with_views = numbered[7]
    assert sorted(with_views) == ["image", "index", "label", "view"]
    equal(plain[7], {name: with_views[name] for name in ARRAYS})


def test_equal_views_are_equal_and_say_what_they_are():
    again = data.views(STATISTICS, *AUGMENTATIONS, seed=5)  # the same partials
    assert again == VIEW
    assert hash(again) == hash(VIEW)
    pipeline = data.pipeline(STATISTICS, *AUGMENTATIONS)
    assert pipeline != VIEW != data.views(STATISTICS, *AUGMENTATIONS)
    assert VIEW.about == {
        "preprocessing": "(image / 255 - [0.5, 0.4]) / [0.25, 0.2]",
        "augmentation": [
            "kdjax.data.augment.random_crop(mode='reflect', padding=2)",
            "kdjax.data.augment.random_flip",
        ],
        "augmentation_seed": 5,
        **(drawing := {"jax_enable_x64": False, "jax_threefry_partitionable": True}),
    }
    assert {**pipeline.about, "augmentation_seed": 5, **drawing} == VIEW.about


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"views": 0}, "views must be >= 1, got 0"),
        ({"views": None}, "got None, for beside holds a row for each view"),
        ({"beside": object()}, "beside must be a dict of arrays.*got object"),
        ({"views": 2}, r"\[2, 10, ...\], got 'teacher/features/a' = \[3, 10, 1, 1\]"),
        ({"beside": {"label": BESIDE["teacher/log_probs"]}}, r"got \['label'\] twice"),
        ({"beside": {"view": BESIDE["teacher/log_probs"]}}, r"got \['view'\] twice"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        batches(**kwargs)


def test_refusals_of_arrays_seeds_and_missing_fields():
    with pytest.raises(ValueError, match="arrays must be a dict, got list"):
        data.Batches([np.zeros(3)], 2, views=1)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*32\), got -1"):
        data.views(STATISTICS, seed=-1)
    with pytest.raises(ValueError, match=r"lacks \['index', 'view'\]"):
        VIEW(None, {"image": ARRAYS["image"]})
