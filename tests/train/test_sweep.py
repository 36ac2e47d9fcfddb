"""Students of many settings in one program equal runs of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import objectives, plans, train, trees
from kdjax.base import Network, Outputs
from tests.train.toy import CLASSES, INPUTS, NETWORK, ROWS, same

STEPS = 3
SETTINGS = {"temperature": [1.0, 3.0], "weight": [0.2, 0.9], "rate": [0.1, 0.02]}
PLANS = ["vmap", "map", "unroll"]


def apply(variables, inputs, *, train=False, rngs=None):
    """The toy network with dropout in place of its noise."""
    if train:
        kept = jax.random.bernoulli(rngs, 0.7, inputs.shape)
        inputs = jnp.where(kept, inputs, 0.0)
    return NETWORK.apply(variables, inputs, train=train)


def teach(variables, inputs):
    """The only one that takes the exponential's place: `erf` marks the teacher."""
    return Outputs(jax.lax.erf(inputs @ variables["params"]["w"])), variables


def make_objective(setting):
    def objective(student, teacher, batch):
        softened = student.logits / setting["temperature"] - teacher.logits
        soft = objectives.masked_mean((softened**2).sum(-1), batch["mask"])
        hard = jnp.abs(student.logits).mean()
        return {
            "soft": objectives.weighted(setting["weight"], soft),
            "hard": objectives.weighted(lambda step: 1 / (1 + step), hard),
        }

    return objective


def make_tx(setting):
    return optax.adam(optax.cosine_decay_schedule(setting["rate"], 10))


def make_sweep(plan="vmap", **changes):
    settings = {**SETTINGS, **changes}
    return train.make_sweep_step(
        apply, teach, make_objective, make_tx, settings, plan=plan
    )


def start(**changes):
    keys = jnp.stack([jax.random.key(0), jax.random.key(7)])
    settings = {**SETTINGS, **changes}
    example = jnp.zeros((1, INPUTS))
    return train.init_sweep(NETWORK, make_tx, settings, keys, example)


@pytest.fixture(scope="module")
def batches(batch):
    return [{**batch, "image": batch["image"] + n} for n in range(STEPS)]


@pytest.fixture(scope="module")
def alone(batches, teacher):
    """Every member's state and metrics after a run of its own."""
    found = []
    for number, seed in enumerate([0, 7]):
        setting = {name: values[number] for name, values in SETTINGS.items()}
        tx = make_tx(setting)
        step = train.make_step(apply, teach, make_objective(setting), tx)
        example = jnp.zeros((1, INPUTS))
        state = train.init(NETWORK, tx, jax.random.key(seed), example)
        for state, metrics in train.run(step, state, teacher, batches):
            pass
        found.append((state, metrics))
    return found


def assert_close(one, other):
    def close(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    jax.tree.map(close, one, other)


@pytest.mark.parametrize("plan", PLANS)
def test_members_equal_runs_of_their_own(plan, alone, batches, teacher):
    first = state = start()
    for state, metrics in train.run(make_sweep(plan), state, teacher, batches):
        pass
    assert first.params["w"].is_deleted()
    assert not teacher["params"]["w"].is_deleted()
    assert int(metrics["step"]) == STEPS
    assert int(metrics["skipped_in_a_row"]) == 0
    for number, member in enumerate(trees.unstack(state)):
        expected, reported = alone[number]
        assert_close(member, expected)
        for name in ("loss", "soft", "hard", "gradient_norm", "skipped"):
            assert metrics[name].shape == (2,)
            np.testing.assert_allclose(metrics[name][number], reported[name], rtol=1e-5)


def test_scan_takes_a_sweep_as_any_step(alone, batches, teacher):
    step = train.scan(make_sweep(), STEPS)
    run = train.run(step, start(), teacher, [trees.stack(batches)])
    for state, metrics in run:
        pass
    assert metrics["loss"].shape == (STEPS, 2)
    assert metrics["step"].tolist() == [1, 2, 3]
    for member, (expected, _) in zip(trees.unstack(state), alone, strict=True):
        assert_close(member, expected)


@pytest.mark.parametrize("plan", ["auto", *PLANS])
def test_the_teacher_runs_once_for_all(plan, batch, teacher):
    step = make_sweep(plan)
    program = jax.make_jaxpr(step.pure)(start(), teacher, batch).jaxpr
    assert list(plans._primitives(program)).count("erf") == 1
    [outside] = [x for x in program.eqns if x.primitive.name == "erf"]
    assert outside.outvars[0].aval.shape == (ROWS, CLASSES)


def test_a_member_that_is_not_finite_disturbs_no_other(alone, batches, teacher):
    step = make_sweep(weight=[0.2, jnp.nan])
    before = trees.unstack(start())[1]
    for state, metrics in train.run(step, start(), teacher, batches, max_skipped=1):
        pass
    assert metrics["skipped"].tolist() == [0, STEPS]
    assert state.skipped_in_a_row.tolist() == [0, STEPS]
    good, bad = trees.unstack(state)
    assert_close(good, alone[0][0])
    assert same(bad.params, before.params)
    spoiled = [{**batch, "image": batch["image"] * jnp.nan} for batch in batches]
    with pytest.raises(train.NonFiniteError) as caught:
        for state, _ in train.run(step, state, teacher, spoiled, max_skipped=1):
            pass
    message = str(caught.value)
    assert message.startswith(f"step {STEPS + 1}: ")
    assert "term 'soft': its value is nan (member 0)" in message


def test_blame_names_the_first_member_at_fault(batch, teacher):
    step = make_sweep(weight=[0.2, jnp.nan])
    assert step.blame(start(), teacher, batch) == {
        "soft": "its value is nan (member 1)"
    }


def test_students_may_differ_in_seed_alone(batch):
    keys = jax.random.split(jax.random.key(0), 3)
    seeds = {"seed": [0, 1, 2]}
    state = train.init_sweep(
        NETWORK, lambda _: optax.sgd(0.1), seeds, keys, batch["image"]
    )
    kernels = state.params["w"]
    assert kernels.shape == (3, INPUTS, CLASSES)
    assert len(np.unique(kernels)) == kernels.size
    one = train.init(NETWORK, optax.sgd(0.1), keys[1], batch["image"])
    np.testing.assert_allclose(kernels[1], one.params["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": [0.1, 0.2, 0.3]}, r"each of the N members, got.*'weight': \(3,\)"),
        ({"weight": 0.1}, r"'weight': \(\)"),
        ({"weight": ["a", "b"]}, "must be .N. numbers, got weight"),
        ({"plan": "pmap"}, "plan must be one of"),
    ],
)
def test_wrong_settings_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        make_sweep(**changes)


def test_what_decides_by_a_traced_number_is_told_what_to_do():
    def peaked(setting):
        return optax.sgd(
            optax.warmup_cosine_decay_schedule(0.0, setting["rate"], 2, 10)
        )

    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="Scale a schedule of size 1"):
        train.init_sweep(NETWORK, peaked, SETTINGS, keys, jnp.zeros((1, INPUTS)))
    with pytest.raises(ValueError, match="make_tx must be a function of a setting"):
        train.make_sweep_step(apply, teach, make_objective, optax.sgd(0.1), SETTINGS)


def test_keys_and_state_must_be_as_many_as_settings(batch, teacher):
    key = jax.random.split(jax.random.key(0), 3)
    network = Network(NETWORK.init, apply)
    with pytest.raises(ValueError, match=r"each of the 2 members.*shape \[3\]"):
        train.init_sweep(network, make_tx, SETTINGS, key, batch["image"])
    few = jax.tree.map(lambda x: x[:1], start())
    with pytest.raises(ValueError, match=r"settings for 2 members.*\[1\], not \[2\]"):
        make_sweep()(few, teacher, batch)
