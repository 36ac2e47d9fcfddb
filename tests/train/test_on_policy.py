"""Batches that the student makes itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import train
from tests.train.toy import apply, distance, new_state, noiseless, same

TX = optax.adam(0.1)


def sample(variables, batch, key):
    noise = jax.random.normal(key, batch["image"].shape)
    return {**batch, "image": noise * variables["params"]["w"].sum()}


@pytest.fixture(scope="module")
def plain():
    return train.make_step(noiseless, apply, distance, TX)


def test_the_step_sees_what_the_student_made(plain, batch, teacher):
    """The batch depends on the student as it is, and on the step."""
    keys = []

    def noted(variables, batch, key):
        keys.append(jax.random.key_data(key))
        return sample(variables, batch, key)

    own = train.on_policy(plain, noted)
    state = other = new_state(TX)
    for _ in range(2):
        state, seen = own.pure(state, teacher, batch)
        made = sample(other.variables, batch, jax.random.wrap_key_data(keys[-1]))
        other, expected = plain.pure(other, teacher, made)
        assert same(state, other)
        assert float(seen["loss"]) == float(expected["loss"])
    assert not np.array_equal(*keys)


def test_nothing_is_differentiated_through_the_sample(plain, batch, teacher):
    def apply_grad(variables, batch, key):
        return {**batch, "image": batch["image"] * variables["params"]["w"].sum()}

    state = new_state(TX)
    made = apply_grad(state.variables, batch, None)
    expected, _ = plain.pure(state, teacher, made)
    found, _ = train.on_policy(plain, apply_grad).pure(state, teacher, batch)
    assert same(found, expected)


def test_it_is_a_step_like_any_other(plain, batch, teacher):
    own = train.on_policy(plain, sample)
    batches = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
    scanned, _ = train.scan(own, 2)(new_state(TX), teacher, batches)
    state = new_state(TX)
    for _ in range(2):
        state, _ = own(state, teacher, batch)
    for one, other in zip(*map(jax.tree.leaves, (scanned, state)), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_what_is_not_finite_is_blamed_on_the_batch_that_was_made(plain, batch, teacher):
    own = train.on_policy(plain, lambda v, b, k: {**b, "image": b["image"] * jnp.nan})
    steps = train.run(own, new_state(TX), teacher, [batch] * 3, max_skipped=2)
    with pytest.raises(train.NonFiniteError, match="term 'plain': its value is nan"):
        list(steps)
