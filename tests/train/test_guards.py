"""What is not finite, and what is misused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import train, trees
from tests.train.toy import (
    apply,
    distance,
    new_state,
    noiseless,
    same,
)


def trap(student, teacher, batch):
    """A fine term, one that is NaN and one whose gradient alone is: sqrt at 0."""
    spoiled = jnp.where(batch["spoil"], jnp.nan, 1.0)
    zero = jnp.where(batch["kink"], 0.0, 1.0)
    return {
        "fine": (student.logits**2).mean(),
        "value": spoiled * student.logits.mean(),
        "kink": jnp.sqrt(zero * (student.logits**2).sum()),
    }


def flags(batch, spoil=False, kink=False):
    return {**batch, "spoil": jnp.array(spoil), "kink": jnp.array(kink)}


@pytest.fixture(scope="module")
def trapped():
    return train.make_step(apply, None, trap, optax.adam(0.1))


@pytest.mark.parametrize("bad", [{"spoil": True}, {"kink": True}])
def test_a_step_that_is_not_finite_changes_only_the_counters(trapped, batch, bad):
    state, _ = trapped(new_state(), None, flags(batch))
    held = jax.tree.map(jnp.array, (state.params, state.rest, state.opt_state))
    state, metrics = trapped(state, None, flags(batch, **bad))
    assert same(held, (state.params, state.rest, state.opt_state))
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (
        2,
        1,
        1,
    )
    assert int(metrics["skipped"]) == 1
    state, _ = trapped(state, None, flags(batch))
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (1, 0)
    assert not same(held[0], state.params)


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize(
    ("bad", "term", "why"),
    [
        ({"spoil": True}, "value", "its value is nan"),
        ({"kink": True}, "kink", "the norm of its gradient is"),
    ],
)
def test_a_run_of_such_steps_stops_and_names_step_and_term(
    trapped, batch, bad, term, why, chunk
):
    batches = [flags(batch)] * 5 + [flags(batch, **bad)] * 25
    step = trapped
    if chunk > 1:
        step = train.scan(trapped, chunk)
        batches = [trees.stack(batches[i : i + chunk]) for i in range(0, 30, chunk)]
    good = None
    with pytest.raises(train.NonFiniteError) as caught:
        for state, _ in train.run(step, new_state(), None, batches, max_skipped=4):
            good = state
    message = str(caught.value)
    assert message.startswith("step 9:")
    assert f"term {term!r}: {why}" in message
    assert message.count("term ") == 1
    assert np.isfinite(good.params["w"]).all()


def test_a_single_bad_batch_does_not_stop_the_run(trapped, batch):
    batches = [flags(batch, spoil=n % 3 == 0) for n in range(12)]
    for state, _ in train.run(trapped, new_state(), None, batches, max_skipped=2):
        pass
    assert (int(state.step), int(state.skipped)) == (12, 4)


def test_batch_statistics_that_overflow_are_not_taken(batch):
    def apply(variables, inputs, *, train=False, rngs=None):
        outputs, _ = noiseless(variables, inputs, train=train)
        mean = variables["batch_stats"]["mean"] + 3e38
        return outputs, {**variables, "batch_stats": {"mean": mean}}

    tx = optax.sgd(0.1)
    step = train.make_step(apply, None, lambda s, t, b: {"x": s.logits.mean()}, tx)
    state, _ = step(new_state(tx), None, batch)
    assert int(state.skipped) == 0
    held = trees.fingerprint((state.params, state.rest))
    state, _ = step(state, None, batch)
    assert int(state.skipped) == 1
    assert trees.fingerprint((state.params, state.rest)) == held


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda s, t, b: {"x": s.logits}, r"term 'x' must be a scalar.*\[8, 3\].*mean"),
        (lambda s, t, b: {}, "at least one named term"),
        (lambda s, t, b: s.logits.mean(), "must return a dict"),
        (lambda s, t, b: {"loss": s.logits.mean()}, r"rename \['loss'\]"),
    ],
)
def test_wrong_objectives_are_explained(batch, objective, message):
    step = train.make_step(apply, None, objective, optax.adam(0.1))
    with pytest.raises(ValueError, match=message):
        step(new_state(), None, batch)


def test_networks_may_read_another_field(batch, teacher):
    other = {"signal": batch["image"], "mask": batch["mask"]}
    step = train.make_step(apply, apply, distance, optax.adam(0.1))
    with pytest.raises(ValueError, match=r"no field 'image'.*\['mask', 'signal'\]"):
        step(new_state(), teacher, other)
    for inputs in ("signal", lambda batch: batch["signal"]):
        step = train.make_step(apply, apply, distance, optax.adam(0.1), inputs=inputs)
        _, metrics = step(new_state(), teacher, other)
        assert np.isfinite(metrics["loss"])


def test_state_starts_from_given_variables_without_taking_them(teacher, step, batch):
    state = train.from_variables(teacher, optax.adam(0.1), jax.random.key(0))
    assert same(state.variables, teacher)
    step(state, teacher, batch)
    assert not teacher["params"]["w"].is_deleted()
    with pytest.raises(ValueError, match=r"variables\['params'\], got \['w'\]"):
        train.from_variables({"w": jnp.ones(2)}, optax.adam(0.1), jax.random.key(0))


def test_state_is_a_pytree_that_cannot_be_changed():
    state = new_state()
    assert jax.tree.structure(state) == jax.tree.structure(new_state())
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 3


def test_stopping_after_no_step_makes_no_sense(trapped, batch):
    run = train.run(trapped, new_state(), None, [flags(batch)], max_skipped=0)
    with pytest.raises(ValueError, match="max_skipped must be > 0, got 0"):
        next(run)


@pytest.mark.parametrize("name", ["dog", "prodigy"])
def test_optimizers_that_keep_the_params_they_are_given_can_be_donated(batch, name):
    tx = getattr(optax.contrib, name)()
    step = train.make_step(
        noiseless, None, lambda s, t, b: {"x": (s.logits**2).mean()}, tx
    )
    state = new_state(tx)
    for state, _ in train.run(step, state, None, [batch] * 2):
        pass
    assert int(state.step) == 2


def test_accumulation_explains_a_field_without_rows(batch, teacher):
    step = train.make_step(apply, apply, distance, optax.adam(0.1), accumulate=2)
    with pytest.raises(ValueError, match=r"batch\['scale'\] has 0 rows"):
        step(new_state(), teacher, {**batch, "scale": jnp.array(2.0)})
