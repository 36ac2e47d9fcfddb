"""What `noise_contrastive` does with its memories, and how it is carried on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.losses.programs import losses
from tests.losses.references import relation_classes as reference

BATCH, DIM, ROWS = 8, 3, 12
close = np.testing.assert_allclose


def _units(rng, *shape):
    vectors = rng.normal(size=(*shape, DIM))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("f4")


def _draw(rows=ROWS, keys=4, seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = _units(rng, 2, BATCH)
    memories = _units(rng, 2, rows)
    indices = rng.permutation(rows)[:BATCH].astype(np.int32)
    negatives = rng.integers(0, rows, (BATCH, keys)).astype(np.int32)
    return student, teacher, *memories, indices, negatives


call = jax.jit(losses.noise_contrastive, static_argnames="axis_name")


def test_partition_is_that_of_the_first_batch():
    first, second = _draw(), _draw(seed=1)
    _, _, partition = call(*first)
    close(partition, reference.partitions(*first, 0.07), rtol=1e-5)
    values, _, again = call(*second, partition=partition)
    assert np.array_equal(again, partition)
    hyper = {"temperature": 0.07, "partition": np.asarray(partition, np.float64)}
    close(values, reference.noise_contrastive(*second, **hyper), rtol=1e-4)


def test_few_keys_of_a_long_memory_are_the_same():
    """Rows are picked before the products there, and after them in a short one."""
    arrays = _draw(rows=40, keys=1)
    values, _, _ = call(*arrays, temperature=0.2)
    close(values, reference.noise_contrastive(*arrays, temperature=0.2), rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_memories_move_to_the_embeddings(momentum):
    student, teacher, s_memory, t_memory, indices, _ = arrays = _draw()
    _, (new_student, new_teacher), _ = call(*arrays, momentum=momentum)
    moved = reference.moved_memory
    close(new_student, moved(s_memory, student, indices, momentum), atol=1e-6)
    close(new_teacher, moved(t_memory, teacher, indices, momentum), atol=1e-6)
    others = np.setdiff1d(np.arange(ROWS), indices)
    assert np.array_equal(np.asarray(new_student)[others], s_memory[others])


def test_opposite_vectors_meet_at_zero():
    student, teacher, _, t_memory, indices, negatives = _draw()
    s_memory = np.zeros_like(t_memory)
    s_memory[indices] = -student
    arrays = student, teacher, s_memory, t_memory, indices, negatives
    _, (moved, _), _ = call(*arrays, momentum=0.5)
    assert np.all(np.asarray(moved) == 0)


def test_masked_examples_leave_no_trace():
    keep = np.arange(BATCH) % 3 != 1
    student, teacher, s_memory, t_memory, indices, negatives = _draw()
    spoiled = np.where(keep[:, None], student, np.nan)
    far = np.where(keep, indices, 10**6).astype(np.int32)
    arrays = spoiled, teacher, s_memory, t_memory, far, negatives
    values, memories, partition = call(*arrays, where=keep)
    batch = (a[keep] for a in (student, teacher))
    kept = (*batch, s_memory, t_memory, indices[keep], negatives[keep])
    expected = losses.noise_contrastive(*kept)
    close(np.asarray(values)[keep], expected[0], rtol=1e-5)
    assert np.all(np.asarray(values)[~keep] == 0)
    close(memories, expected[1], atol=1e-6)
    close(partition, expected[2], rtol=1e-5)
    _, memories, partition = call(*arrays, where=np.zeros(BATCH, bool))
    close(memories, (s_memory, t_memory))
    assert np.all(np.isfinite(partition))


@pytest.mark.parametrize("count", [2, 8])
def test_devices_keep_one_memory(count, devices):
    keep = np.arange(BATCH) % 3 != 1
    arrays = _draw()
    expected = call(*arrays, where=keep)
    mesh = Mesh(np.array(devices[:count]), ("batch",))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    batch = (split, split, whole, whole, split, split)

    def local(arrays, keep):
        return losses.noise_contrastive(*arrays, where=keep, axis_name="batch")

    spread = jax.jit(  # `whole`: shard_map itself knows them to be the same everywhere
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(batch, split),
            out_specs=(split, (whole, whole), whole),
        )
    )
    actual = spread(arrays, keep)
    for ours, theirs in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_scores_have_a_gradient():
    arrays = _draw()

    def memories_and_partition(*moving):
        _, memories, partition = losses.noise_contrastive(*moving, *arrays[4:])
        return sum(m.sum() for m in memories) + partition.sum()

    gradients = jax.jit(jax.grad(memories_and_partition, (0, 1, 2, 3)))(*arrays[:4])
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_the_partition_counts_as_a_constant():
    *moving, indices, negatives = _draw()

    def loss(moving, partition):
        return losses.noise_contrastive(
            *moving, indices, negatives, partition=partition
        )[0].sum()

    _, _, partition = call(*moving, indices, negatives)
    own = jax.jit(jax.grad(lambda m: loss(m, None)))(moving)
    given, by_partition = jax.jit(jax.grad(loss, (0, 1)))(moving, partition)
    for ours, theirs in zip(own, given, strict=True):
        close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(by_partition) == 0)


def test_it_is_carried_through_a_scan():
    """Memories keep their dtype, and the loss falls as they near the embeddings."""
    student, _, s_memory, t_memory, indices, _ = _draw()
    memories = jnp.asarray(s_memory, jnp.bfloat16), jnp.asarray(t_memory)
    negatives = np.setdiff1d(np.arange(ROWS), indices)[None].repeat(BATCH, 0)
    fixed = indices, negatives.astype(np.int32)
    _, _, partition = call(student, student, *memories, *fixed)

    @jax.jit
    def train(carry):
        def step(carry, _):
            values, *carry = losses.noise_contrastive(
                student, student, *carry[0], *fixed, partition=carry[1]
            )
            return tuple(carry), values.mean()

        return jax.lax.scan(step, carry, length=8)

    (final, _), means = train((memories, partition))
    assert [m.dtype for m in final] == [jnp.bfloat16, jnp.float32]
    assert np.all(np.diff(means) < 0.1)
    assert means[-1] < means[0] - 1.0


@functools.cache
def _refused():
    return _draw()


@pytest.mark.parametrize(
    ("position", "change", "match"),
    [
        (2, lambda a: a[:-1], r"student_memory \[11, 3\], teacher_memory \[12, 3\]"),
        (2, lambda a: a[:, :2], r"student_memory must be .* dim = 3"),
        (3, lambda a: a.astype(np.int32), "teacher_memory must be floating"),
        (4, lambda a: a.astype(np.float32), r"indices .*float32\[8\]"),
        (5, lambda a: a[:, :0], r"K > 0, got int32\[8, 0\]"),
        (5, lambda a: a[:-1], r"negatives .*\[7, 4\] for embeddings \[8, 3\]"),
    ],
)
def test_wrong_memories_are_refused(position, change, match):
    arrays = list(_refused())
    arrays[position] = change(arrays[position])
    with pytest.raises(ValueError, match=f"^noise_contrastive: .*{match}"):
        losses.noise_contrastive(*arrays)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^noise_contrastive: partition must be"):
        losses.noise_contrastive(*_refused(), partition=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"^noise_contrastive: momentum must be"):
        losses.noise_contrastive(*_refused(), momentum=1.5)
