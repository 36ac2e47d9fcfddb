"""The mapped step equals the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import losses, objectives, train, trees
from tests.train import toy

DEVICES, ROWS = 4, 16
TX = optax.adam(0.05)


def objective_of(axis_name):
    def objective(student, teacher, batch):
        arrays = student.logits, teacher.logits
        values = ((student.logits - teacher.logits) ** 2).sum(-1)
        distances = losses.rkd_distance(*arrays, axis_name=axis_name)
        return {
            "masked": objectives.masked_mean(values, batch["mask"]),
            "plain": (student.logits**2).mean(),
            "distances": distances.mean(),
        }

    return objective


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(ROWS, toy.INPUTS)).astype(np.float32),
        # devices have different numbers of examples, one of them none
        "mask": np.arange(ROWS) % 7 > np.arange(ROWS) // 4,
    }


@pytest.fixture(scope="module")
def mapped():
    student = toy.noiseless, toy.apply
    return train.pmap_step(*student, objective_of("devices"), TX)


def copies(tree):
    return jax.tree.map(lambda x: jnp.stack([x] * DEVICES), tree)


def parts(batch):
    return jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)


def test_it_equals_the_plain_step(batch, teacher, mapped, devices):
    plain = train.make_step(toy.noiseless, toy.apply, objective_of(None), TX)
    state, states = toy.new_state(TX), copies(toy.new_state(TX))
    held = copies(teacher)
    for _ in range(3):
        state, expected = plain(state, teacher, batch)
        states, found = mapped(states, held, parts(batch))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (states, state)), strict=True):
        for copy in trees.to_host(one):
            np.testing.assert_allclose(copy, trees.to_host(other), rtol=1e-5)


def test_run_takes_it_and_names_what_is_not_finite(teacher, mapped, batch, devices):
    spoiled = {**batch, "image": np.full_like(batch["image"], np.inf)}
    steps = train.run(
        mapped, copies(toy.new_state(TX)), copies(teacher), [parts(spoiled)] * 2,
        max_skipped=2,
    )  # fmt: skip
    with pytest.raises(train.NonFiniteError, match="term 'plain': its values are"):
        list(steps)


def test_devices_draw_their_own_noise(devices):
    def noise(student, teacher, batch):
        return {"noise": objectives.masked_mean(student.logits)}

    step = train.pmap_step(toy.apply, None, noise, TX)
    state = copies(toy.new_state(TX))
    # inputs of 0, so that the logits are nothing but noise
    nothing = {"image": np.zeros((DEVICES, 1, toy.INPUTS), np.float32)}
    own = [jax.random.fold_in(state.key[0], number) for number in range(DEVICES)]
    drawn = [
        0.1 * jax.random.normal(jax.random.fold_in(key, 0), (1, toy.CLASSES))
        for key in own
    ]
    _, metrics = step(state, None, nothing)
    np.testing.assert_allclose(metrics["noise"], np.mean(drawn), rtol=1e-5)
