"""Batches: the same bits for the same step, every example once an epoch."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import data
from kdjax.base import Outputs

N, BATCH = 10, 4
RNG = np.random.default_rng(0)
ARRAYS = {
    "image": RNG.integers(0, 256, (N, 6, 6, 1)).astype(np.uint8),
    "label": np.arange(N, dtype=np.int32),
    "teacher": Outputs(RNG.normal(size=(N, 3)).astype(np.float32)),
}
VIEW = data.pipeline(([0.5], [0.25]), partial(data.random_shift, pixels=2))


def batches(**kwargs):
    options = {"batch_size": BATCH, "seed": 3, "transform": VIEW, **kwargs}
    return data.Batches(ARRAYS, **options)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def labels(stream, steps):
    return np.concatenate([stream.indices(step) for step in steps])


@pytest.fixture(scope="module")
def stream():
    return batches()


def test_every_example_once_an_epoch_and_orders_differ(stream):
    order = labels(stream, range(15)).reshape(6, N)  # six epochs of 2.5 batches
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(N), (6, 1)))
    assert len({tuple(row) for row in order.tolist()}) == 6


def test_fields_of_a_row_stay_together(stream):
    batch = stream[5]
    rows = stream.indices(5)
    np.testing.assert_array_equal(batch["label"], ARRAYS["label"][rows])
    np.testing.assert_array_equal(
        batch["teacher"].logits, ARRAYS["teacher"].logits[rows]
    )
    assert batch["image"].shape == (BATCH, 6, 6, 1)
    assert batch["image"].dtype == jnp.float32


def test_resuming_anywhere_gives_the_same_bits(stream):
    straight = list(itertools.islice(stream, 7))
    resumed = batches()  # step 3 is amid the second epoch
    for step in (3, 4, 5, 6):
        equal(resumed[step], straight[step])


def test_seed_and_step_change_order_and_keys(stream):
    assert (
        labels(stream, range(3)).tolist() != labels(batches(seed=4), range(3)).tolist()
    )
    same = {"image": ARRAYS["image"][:1], "label": ARRAYS["label"][:1]}
    lonely = data.Batches(same, batch_size=1, seed=0, transform=VIEW)
    views = {np.asarray(lonely[step]["image"]).tobytes() for step in range(12)}
    assert len(views) > 6
    other = data.Batches(same, batch_size=1, seed=1, transform=VIEW)
    assert views != {np.asarray(other[step]["image"]).tobytes() for step in range(12)}


def test_the_transforms_key_is_not_the_training_states():
    def keep_key(key, batch):
        return {"key": jax.random.key_data(key)}

    ours = batches(transform=keep_key)[5]["key"]
    plain = jax.random.fold_in(jax.random.key(3), 5)
    assert ours.tolist() != jax.random.key_data(plain).tolist()


def test_a_chunk_is_its_batches(stream):
    chunk = stream.chunk(2, 3)
    assert chunk["image"].shape == (3, BATCH, 6, 6, 1)
    for i in range(3):
        equal(jax.tree.map(lambda a, i=i: a[i], chunk), stream[2 + i])


def test_on_the_host_it_is_the_same(stream):
    host = batches(device_bytes=0)
    assert isinstance(host._arrays["image"], np.ndarray)
    equal(host[4], stream[4])
    equal(host.chunk(2, 3), stream.chunk(2, 3))


def test_arrays_are_arguments_not_constants(stream):
    from kdjax.data import batches as module

    args = stream._arrays, stream.indices(0), stream._key, np.uint32(0)
    big = jax.tree.map(lambda a: jnp.tile(a, (500,) + (1,) * (a.ndim - 1)), args[0])
    text = module._one.lower(big, *args[1:], VIEW).as_text()
    assert len(text) < 50_000


def test_one_program_for_all_steps_and_equal_pipelines(stream):
    from kdjax.data import batches as module

    _ = stream[0]
    size = module._one._cache_size()
    equal_view = data.pipeline(([0.5], [0.25]), VIEW.augmentations[0])
    _ = batches(transform=equal_view)[9]
    assert module._one._cache_size() == size


def test_a_batch_may_exceed_the_set():
    plain = data.Batches({"label": np.arange(3)}, batch_size=8, seed=0)
    order = np.concatenate([plain[0]["label"], plain[1]["label"]])[:15]
    np.testing.assert_array_equal(
        np.sort(order.reshape(5, 3)), np.tile(np.arange(3), (5, 1))
    )


def test_two_permutations_are_kept(stream):
    _ = labels(stream, range(50))
    assert stream._permutation.cache_info().currsize == 2


def test_sharding_lays_out_the_batch_axis(devices, stream):
    mesh = jax.make_mesh((2,), ("data",), devices=devices[:2])
    sharded = batches(sharding=NamedSharding(mesh, P("data")))
    batch, chunk = sharded[4], sharded.chunk(2, 3)
    assert batch["image"].sharding.shard_shape((BATCH, 6, 6, 1)) == (2, 6, 6, 1)
    assert chunk["label"].sharding.shard_shape((3, BATCH)) == (3, 2)
    equal(batch, stream[4])
    equal(chunk, stream.chunk(2, 3))


@pytest.mark.parametrize(
    ("arrays", "kwargs", "message"),
    [
        ({"a": np.zeros([0, 2])}, {}, r"at least one example, got {'a': 0}"),
        ({}, {}, "at least one example"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, {}, r"one length, got {'a': 3, 'b': 2}"),
        ({"a": np.zeros(3)}, {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"a": np.zeros(3)}, {"seed": -1}, r"seed must be in \[0, 2\*\*32\), got -1"),
        ({"a": np.array(["x"])}, {}, r"numbers, got 'a' = <U1\[1\]"),
        ({"a": np.float32(3)}, {}, r"'a' = float32\[\]"),
        ({"a": [1, 2]}, {}, r"'a/0' = int\[\]"),
    ],
)
def test_wrong_arguments_are_refused(arrays, kwargs, message):
    with pytest.raises(ValueError, match=message):
        data.Batches(arrays, **{"batch_size": 2, **kwargs})


def test_steps_out_of_range_are_refused(stream):
    with pytest.raises(ValueError, match="step must be >= 0, got -1"):
        stream[-1]
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        stream.chunk(0, 0)


def test_an_epoch_is_in_order_and_masks_its_padding():
    view = data.pipeline(([0.5], [0.25]))
    found = list(data.epoch(ARRAYS, BATCH, view))
    assert [b["mask"].tolist() for b in found[1:]] == [
        [True] * 4,
        [True] * 2 + [False] * 2,
    ]
    assert all(b["image"].shape == (BATCH, 6, 6, 1) for b in found)
    real = [np.asarray(b["image"])[np.asarray(b["mask"])] for b in found]
    expected = data.normalize(ARRAYS["image"], [0.5], [0.25])
    np.testing.assert_array_equal(np.concatenate(real), expected)
    np.testing.assert_array_equal(found[2]["label"], [8, 9, 0, 0])
    assert found[2]["teacher"].logits.shape == (BATCH, 3)


def test_an_epoch_has_no_empty_batch_and_repeats_exactly():
    even = {"label": ARRAYS["label"][:8]}
    assert len(list(data.epoch(even, BATCH))) == 2
    for one, two in zip(
        data.epoch(ARRAYS, BATCH, VIEW), data.epoch(ARRAYS, BATCH, VIEW), strict=True
    ):
        equal(one, two)


def test_epoch_refuses_at_the_call():
    with pytest.raises(ValueError, match="epoch: batch_size must be >= 1, got 0"):
        data.epoch(ARRAYS, 0)
    with pytest.raises(ValueError, match="'mask' is epoch's own"):
        data.epoch({"mask": np.ones(3)}, 2)
    with pytest.raises(ValueError, match="at least one example"):
        data.epoch({"a": np.zeros(0)}, 2)


def test_the_callers_arrays_may_change_afterwards():
    label = np.zeros(8, np.float32)
    batches = data.Batches({"label": label}, batch_size=8)
    label[:] = 7
    assert (batches[0]["label"] == 0).all()
