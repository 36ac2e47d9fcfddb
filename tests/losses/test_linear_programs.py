"""What the programs of `linear_divergence` hold, compute and send around."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.vocabulary import DIVERGENCES, SHAPES, per_token, plain, summed
from tests.losses.programs import AS_USERS, assert_close, losses

ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


@pytest.fixture(scope="module")
def heads():
    """Hidden states and kernels of 64 tokens and two networks of different width."""
    rng = np.random.default_rng(3)
    shapes = (64, 4), (4, 7), (64, 3), (3, 7)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


@functools.cache
def temporary(of, divergence, sides):
    """Return the temporary bytes of value and gradient at 2,048 x 32,000."""
    heads = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES]
    graded = jax.jit(jax.value_and_grad(of(divergence), sides))
    program = graded.lower(*heads).compile(AS_USERS)
    return program.memory_analysis().temp_size_in_bytes


@each_divergence
@pytest.mark.parametrize("of", [per_token, summed])
def test_a_tenth_of_the_memory(of, divergence):
    used = temporary(of, divergence, (0, 1))
    assert 10 * used <= temporary(plain, divergence, (0, 1))


@pytest.mark.parametrize("of", [per_token, summed])
def test_a_sixth_of_the_memory_where_both_learn(of):
    used = temporary(of, "forward_kl", (0, 1, 2, 3))
    assert 6 * used <= temporary(plain, "forward_kl", (0, 1, 2, 3))


@pytest.mark.parametrize(("sides", "products"), [((0, 1), 4), ((1,), 3), (range(4), 6)])
def test_each_product_is_done_once_and_only_if_needed(heads, sides, products):
    """Logits of both sides, and two products for each side that learns."""
    program = jax.jit(jax.value_and_grad(summed("forward_kl"), tuple(sides)))
    assert program.lower(*heads).compile().as_text().count(" dot(") == products


def test_a_sweep_of_temperatures_shares_the_products(heads):
    def graded(temperature):
        def loss(kernel):
            full = heads[0], kernel, *heads[2:]
            more = {"temperature": temperature, "chunk": 16}
            return losses.sum_linear_divergence(*full, **more)[0]

        return jax.value_and_grad(loss)(heads[1])

    temperatures = jnp.array([1.0, 2.0, 4.0])
    program = jax.jit(jax.vmap(graded)).lower(temperatures).compile()
    assert program.as_text().count(" dot(") == 3
    values, gradients = program(temperatures)
    alone = jax.jit(graded)
    for number, temperature in enumerate(temperatures):
        value, gradient = alone(temperature)
        np.testing.assert_allclose(values[number], value, rtol=1e-6)
        assert_close(gradients[number], np.asarray(gradient), rtol=1e-5)


@pytest.mark.parametrize("count", [2, 8])
def test_tokens_stay_on_their_devices(heads, devices, count):
    mesh = Mesh(np.array(devices[:count]), ("data",))
    places = (NamedSharding(mesh, ROWS), NamedSharding(mesh, WHOLE)) * 2
    spread = jax.device_put(heads, places)

    def loss(*heads):
        total, count = losses.sum_linear_divergence(*heads, chunk=16)
        return total / count

    graded = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    program = graded.lower(*spread).compile()
    text = program.as_text()
    assert not any(f"{move}(" in text for move in ("all-gather", "collective-permute"))
    for found, wanted in zip(
        jax.tree.leaves(program(*spread)), jax.tree.leaves(graded(*heads)), strict=True
    ):
        assert_close(np.asarray(found), np.asarray(wanted), rtol=1e-5)


@pytest.mark.parametrize("summing", [True, False])
def test_shard_map_adds_up_the_devices_once(heads, devices, summing):

    def total(*heads):
        if summing:
            return losses.sum_linear_divergence(*heads, chunk=3)[0]
        return losses.linear_divergence(*heads, chunk=3).sum()

    spread = jax.jit(
        jax.shard_map(
            jax.grad(total, (0, 1)),
            mesh=Mesh(np.array(devices), ("data",)),
            in_specs=(ROWS, WHOLE, ROWS, WHOLE),
            out_specs=(ROWS, WHOLE),
        )
    )
    program = spread.lower(*heads).compile()
    assert program.as_text().count(" all-reduce(") == 1
    expected = jax.jit(jax.grad(total, (0, 1)))(*heads)
    for found, wanted in zip(program(*heads), expected, strict=True):
        assert_close(np.asarray(found), np.asarray(wanted), rtol=1e-5)
