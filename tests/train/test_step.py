"""The step, its state and the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import train, trees
from kdjax.base import Outputs
from tests.train.toy import (
    CLASSES,
    INPUTS,
    NETWORK,
    ROWS,
    apply,
    distance,
    new_state,
    noiseless,
    same,
)


def test_only_the_state_is_donated_and_the_teacher_is_an_argument(step, batch, teacher):
    before = trees.fingerprint(teacher)
    state = new_state()
    old = state.params["w"]
    new, _ = step(state, teacher, batch)
    assert old.is_deleted()
    assert trees.fingerprint(teacher) == before
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((teacher, batch)))
    assert int(new.step) == 1
    shifted = jax.tree.map(lambda x: x + 1, teacher)
    _, one = step(new_state(), teacher, batch)
    _, other = step(new_state(), shifted, batch)
    assert one["masked"] != other["masked"], (
        "the program ignores the teacher it is given"
    )


def test_teacher_weights_are_not_baked_into_the_program(batch):
    big = {"params": {"w": jnp.ones((INPUTS, CLASSES))}, "big": jnp.arange(20_000.0)}

    def apply(variables, inputs, **_):
        logits = inputs @ variables["params"]["w"] + variables["big"].sum()
        return Outputs(logits), variables

    step = train.make_step(noiseless, apply, distance, optax.sgd(0.1))
    text = step.compiled.lower(new_state(optax.sgd(0.1)), big, batch).as_text()
    assert len(text) < 20_000


def test_teacher_runs_in_evaluation_mode_outside_the_gradient(batch):
    seen = []

    def watched(variables, inputs, *, train=False, rngs=None):
        seen.append((train, rngs is None))
        return apply(variables, inputs, train=train)

    step = train.make_step(noiseless, watched, distance, optax.sgd(0.1))

    def loss(variables):
        _, metrics = step.pure(new_state(optax.sgd(0.1)), variables, batch)
        return metrics["loss"]

    variables = NETWORK.init(jax.random.key(9), batch["image"])
    gradient = jax.grad(loss)(variables)
    assert seen
    assert set(seen) == {(False, False)}  # its own key, should it draw
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_update_equals_the_formula(batch, teacher):
    step = train.make_step(noiseless, noiseless, distance, optax.sgd(0.5))
    state = new_state(optax.sgd(0.5))
    w = np.asarray(state.params["w"], np.float64)
    x = np.asarray(batch["image"], np.float64)
    target = x @ np.asarray(teacher["params"]["w"], np.float64)
    mask = np.asarray(batch["mask"], np.float64)[:, None]
    gradient = x.T @ (2 * mask * (x @ w - target)) / mask.sum()
    gradient += 0.1 * 2 * x.T @ (x @ w) / (ROWS * CLASSES)
    state, metrics = step(state, teacher, batch)
    np.testing.assert_allclose(state.params["w"], w - 0.5 * gradient, rtol=1e-5)
    norm = np.linalg.norm(gradient)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    total = metrics["masked"] + metrics["plain"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    np.testing.assert_allclose(state.rest["batch_stats"]["mean"], 0.1 * (x @ w).mean(0),
                               rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_whole_batch(batch, teacher, parts):
    tx = optax.adam(0.1)
    whole = train.make_step(noiseless, noiseless, distance, tx)
    cut = train.make_step(noiseless, noiseless, distance, tx, accumulate=parts)
    one, other = new_state(), new_state()
    for _ in range(3):
        one, expected = whole(one, teacher, batch)
        other, metrics = cut(other, teacher, batch)
    for name in ("loss", "masked", "plain", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(one.params["w"], other.params["w"], rtol=1e-4, atol=1e-6)


def test_accumulation_must_divide_the_batch(batch, teacher):
    step = train.make_step(apply, apply, distance, optax.adam(0.1), accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate=3 must divide.*8 rows"):
        step(new_state(), teacher, batch)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        train.make_step(apply, apply, distance, optax.adam(0.1), accumulate=0)


def test_accumulation_keeps_one_microbatch_in_memory():
    wide, rows = 256, 512
    tx = optax.sgd(0.1)

    def apply(variables, inputs, *, train=False, rngs=None):
        hidden = jnp.tanh(inputs @ variables["params"]["a"])
        return Outputs(jnp.tanh(hidden @ variables["params"]["b"])), variables

    params = {"a": jnp.ones((INPUTS, wide)), "b": jnp.ones((wide, wide))}

    def temporary(parts):
        step = train.make_step(
            apply, None, lambda s, t, b: {"x": s.logits.mean()}, tx, accumulate=parts
        )
        state = train.from_variables({"params": params}, tx, jax.random.key(0))
        compiled = step.compiled.lower(state, None, {"image": jnp.ones((rows, INPUTS))})
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(1) / 2


def test_resumed_run_repeats_exactly(step, batch, teacher):
    state = new_state()
    for state, _ in train.run(step, state, teacher, [batch] * 6):
        if int(state.step) == 3:
            saved = jax.tree.map(jnp.array, state)
    for resumed, _ in train.run(step, saved, teacher, [batch] * 3):
        pass
    assert same(state, resumed)


def test_each_step_has_its_own_key(batch, teacher):
    step = train.make_step(
        apply, None, lambda s, t, b: {"x": (s.logits**2).mean()}, optax.sgd(0.0)
    )
    run = train.run(step, new_state(optax.sgd(0.0)), None, [batch] * 3)
    losses = [metrics["loss"].item() for _, metrics in run]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("steps", [1, 3])
def test_scan_equals_the_loop(step, batch, teacher, steps):
    state = new_state()
    losses = []
    for state, metrics in train.run(step, state, teacher, [batch] * 6):
        losses.append(metrics["loss"].item())
    chunk = trees.stack([batch] * steps)
    scanned = new_state()
    seen = []
    for scanned, metrics in train.run(
        train.scan(step, steps), scanned, teacher, [chunk] * (6 // steps)
    ):
        seen += metrics["loss"].tolist()
    np.testing.assert_allclose(seen, losses, rtol=1e-5)
    np.testing.assert_allclose(scanned.params["w"], state.params["w"], rtol=1e-5)
    with pytest.raises(ValueError, match="leading axis of 2"):
        train.scan(step, 2)(new_state(), teacher, chunk)


def test_step_is_traced_once(batch, teacher):
    traces = []

    def objective(student, teach, batch):
        traces.append(1)
        return distance(student, teach, batch)

    step = train.make_step(apply, apply, objective, optax.adam(0.1))
    for _ in train.run(step, new_state(), teacher, [batch] * 4):
        pass
    assert len(traces) == 1


def test_step_vmaps_over_students(step, batch, teacher):
    keys = jax.random.split(jax.random.key(3), 2)
    inputs = jnp.zeros((1, INPUTS))
    states = [train.init(NETWORK, optax.adam(0.1), key, inputs) for key in keys]
    together, metrics = jax.vmap(step.pure, (0, None, None))(
        trees.stack(states), teacher, batch
    )
    alone, expected = step(states[1], teacher, batch)
    np.testing.assert_allclose(metrics["loss"][1], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(together.params["w"][1], alone.params["w"], rtol=1e-5)


def test_sharded_batch_equals_one_device(step, batch, teacher, devices):
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    quiet = train.make_step(noiseless, noiseless, distance, optax.adam(0.1))
    one, expected = quiet(new_state(), teacher, batch)
    state, far = jax.device_put((new_state(), teacher), whole)
    other, metrics = quiet(state, far, jax.device_put(batch, rows))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(other.params["w"], one.params["w"], rtol=1e-5)
