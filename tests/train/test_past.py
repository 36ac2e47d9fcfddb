"""A student's own past as its teacher: EMA, snapshots, checkpoints."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import checkpoint, teachers, train, trees
from tests.train.toy import INPUTS, NETWORK, apply, distance, same

KEY, TX = jax.random.key(0), optax.adam(0.1)
EXAMPLE = jnp.zeros((1, INPUTS))
PASTS = {
    "ema": (teachers.ema(0.9), NETWORK),
    "snapshots": (teachers.snapshots(2, every=3), teachers.ensemble(NETWORK, 2)),
}
EVERY = pytest.mark.parametrize("name", PASTS)


def start(past):
    return train.init(NETWORK, TX, KEY, EXAMPLE, past=past)


@pytest.fixture(scope="module")
def steps():
    return {
        name: train.make_step(apply, teacher.apply, distance, TX, past=past)
        for name, (past, teacher) in PASTS.items()
    }


def trained(step, state, batch, number):
    """Train; return all states' variables and the last state, copied from donation."""
    seen = []
    for _ in range(number):
        state, _ = step(state, None, batch)
        seen.append(jax.tree.map(np.asarray, state.variables))
    return seen, state


def test_ema_is_its_formula_and_lags_behind(steps, batch):
    state = start(PASTS["ema"][0])
    expected = jax.tree.map(np.asarray, state.variables)
    seen, state = trained(steps["ema"], state, batch, 6)
    for number, variables in enumerate(seen, start=1):
        rate = min(0.9, (1 + number) / (10 + number))
        expected = jax.tree.map(
            lambda m, v, r=rate: r * m + (1 - r) * v, expected, variables
        )
    held = PASTS["ema"][0].read(state.past)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), held, expected
    )
    plain = teachers.ema(0.25, warmup=False)
    after = plain.update({"w": jnp.zeros(()), "n": 1}, {"w": jnp.ones(()), "n": 5}, 1)
    assert after == {"w": 0.75, "n": 5}


def test_snapshots_are_the_last_ones_and_the_first_fills_all(steps, batch):
    past = PASTS["snapshots"][0]
    state = start(past)
    first = trees.stack([jax.tree.map(np.asarray, state.variables)] * 2)
    assert same(past.read(state.past), first)
    seen, state = trained(steps["snapshots"], state, batch, 4)
    assert same(past.read(state.past), trees.stack([seen[2]] * 2))
    more, state = trained(steps["snapshots"], state, batch, 6)
    seen += more
    assert same(past.read(state.past), trees.stack([seen[8], seen[5]]))


@EVERY
def test_the_teacher_is_the_past(name, steps, batch):
    """The loss of a step is that against the teacher the state held before it."""
    past, teacher = PASTS[name]
    _, state = trained(steps[name], start(past), batch, 5)
    held = jax.tree.map(jnp.array, past.read(state.past))
    plain = train.make_step(apply, teacher.apply, distance, TX)
    same_state = jax.tree.map(jnp.array, state)
    _, expected = plain(dataclasses.replace(same_state, past=()), held, batch)
    _, metrics = steps[name](state, None, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)


@EVERY
def test_a_resumed_run_repeats_the_bits(name, steps, batch, tmp_path):
    past, _ = PASTS[name]
    _, through = trained(steps[name], start(past), batch, 7)
    _, half = trained(steps[name], start(past), batch, 4)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, half)
        checkpoints.wait()
        found = checkpoints.restore(jax.eval_shape(lambda: start(past)))
    _, resumed = trained(steps[name], found.state, batch, 3)
    assert same(resumed, through)
    assert jax.tree.leaves(resumed.past)


def test_a_step_that_is_not_finite_leaves_the_past_alone(steps, batch):
    state = start(PASTS["ema"][0])
    before = trees.fingerprint(state.past)
    bad = {**batch, "image": batch["image"] * jnp.nan}
    state, metrics = steps["ema"](state, None, bad)
    assert metrics["skipped"] == 1
    assert trees.fingerprint(state.past) == before


def test_a_given_teacher_stands_beside_the_past(batch, teacher):
    past = teachers.ema(0.9)
    both = teachers.mixture((NETWORK, NETWORK), teachers.mean_logits)
    step = train.make_step(apply, both.apply, distance, TX, past=past)
    state = start(past)
    held = teachers.stack([teacher, jax.tree.map(jnp.array, state.variables)])
    pair = teachers.ensemble(NETWORK, 2, teachers.mean_logits)
    plain = train.make_step(apply, pair.apply, distance, TX)
    same_state = jax.tree.map(jnp.array, state)
    _, expected = plain(dataclasses.replace(same_state, past=()), held, batch)
    _, metrics = step(state, teacher, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: teachers.ema(1.5), r"decay must be in \[0, 1\]"),
        (lambda: teachers.snapshots(0, every=1), "size must be > 0"),
        (lambda: teachers.snapshots(1, every=0), "every must be > 0"),
        (
            lambda: teachers.snapshots(2.0, every=1),
            r"size must be an integer, got 2\.0",
        ),
        (lambda: start(0.9), r"past must be teachers\.ema.*got 0\.9"),
        (lambda: train.make_step(apply, apply, distance, TX, past=1), "past must be"),
    ],
)
def test_wrong_numbers_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_state_and_step_must_agree_on_the_past(steps, batch, teacher):
    without = train.make_step(apply, apply, distance, TX)
    with pytest.raises(ValueError, match="past: only the state has one"):
        without(start(PASTS["ema"][0]), teacher, batch)
    with pytest.raises(ValueError, match="past: the step has one, the state none"):
        steps["ema"](start(None), None, batch)


def test_the_average_of_half_precision_moves():
    past = teachers.ema(0.999, warmup=False)
    held = past.init({"w": jnp.zeros(2, jnp.bfloat16)})
    one = {"w": jnp.ones(2, jnp.bfloat16)}

    def update(step, held):
        return past.update(held, one, step)

    held = jax.lax.fori_loop(0, 2000, update, held)
    np.testing.assert_allclose(held["w"], 1 - 0.999**2000, rtol=1e-3)


def test_checkpoints_of_earlier_steps_are_teachers(tmp_path, steps, batch):
    state = start(PASTS["ema"][0])
    kept = {}
    with checkpoint.Checkpoints(tmp_path, keep=1, keep_steps=(1, 3)) as checkpoints:
        for number in range(1, 6):
            state, _ = steps["ema"](state, None, batch)
            checkpoints.save(number, state)
            kept[number] = jax.tree.map(np.asarray, state.variables)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3, 5]
    assert same(teachers.from_checkpoints(tmp_path, 3), kept[3])
    several = teachers.from_checkpoints(tmp_path, (5, 1))
    assert same(several, trees.stack([kept[5], kept[1]]))
    like = jax.eval_shape(lambda: start(PASTS["ema"][0]))
    assert same(teachers.from_checkpoints(tmp_path, 3, like=like), kept[3])
    with pytest.raises(ValueError, match=r"asked for the steps \[2\].*\[1, 3, 5\]"):
        teachers.from_checkpoints(tmp_path, 2)
    with pytest.raises(ValueError, match="there is no directory"):
        teachers.from_checkpoints(tmp_path / "nowhere", 2)
    with pytest.raises(checkpoint.CheckpointError, match="holds another state"):
        teachers.from_checkpoints(tmp_path, 3, like={"params": jnp.zeros(())})
    (tmp_path / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint 3 .* damaged"):
        teachers.from_checkpoints(tmp_path, 3)


def test_bare_variables_come_back_as_they_are(tmp_path, teacher):
    checkpoint.save_variables(tmp_path, teacher, {})
    assert same(teachers.from_checkpoints(tmp_path, 0), teacher)
