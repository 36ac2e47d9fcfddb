"""The step, its state, the loop and the evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import objectives, train, trees
from kdjax.base import Network, Outputs

ROWS, INPUTS, CLASSES = 8, 4, 3


def _init(key, inputs):
    kernel = jax.random.normal(key, (INPUTS, CLASSES))
    return {"params": {"w": kernel}, "batch_stats": {"mean": jnp.zeros(CLASSES)}}


def _apply(variables, inputs, *, train=False, rngs=None):
    logits = inputs @ variables["params"]["w"]
    if not train:
        return Outputs(logits, {"hidden": logits}), variables
    if rngs is not None:
        logits = logits + 0.1 * jax.random.normal(rngs, logits.shape)
    mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * logits.mean(0)
    return Outputs(logits), {**variables, "batch_stats": {"mean": mean}}


NETWORK = Network(_init, _apply)


def _noiseless(variables, inputs, *, train=False, rngs=None):
    return _apply(variables, inputs, train=train)


def distance(student, teacher, batch):
    values = ((student.logits - teacher.logits) ** 2).sum(-1)
    return {
        "masked": objectives.masked_mean(values, batch["mask"]),
        "plain": 0.1 * (student.logits**2).mean(),
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(ROWS, INPUTS)), jnp.float32),
        "mask": jnp.array([1, 0, 1, 1, 0, 0, 0, 1], bool),
        "label": jnp.asarray(rng.integers(CLASSES, size=ROWS)),
    }


@pytest.fixture(scope="module")
def teacher(batch):
    return NETWORK.init(jax.random.key(9), batch["image"])


@pytest.fixture(scope="module")
def step():
    return train.make_step(_apply, _apply, distance, optax.adam(0.1))


def new_state(tx=None):
    tx = tx or optax.adam(0.1)
    return train.init(NETWORK, tx, jax.random.key(0), jnp.zeros((1, INPUTS)))


def same(one, other):
    return trees.fingerprint(one) == trees.fingerprint(other)


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

    step = train.make_step(_noiseless, apply, distance, optax.sgd(0.1))
    text = step.compiled.lower(new_state(optax.sgd(0.1)), big, batch).as_text()
    assert len(text) < 20_000


def test_teacher_runs_in_evaluation_mode_outside_the_gradient(batch):
    seen = []

    def apply(variables, inputs, *, train=False, rngs=None):
        seen.append((train, rngs))
        return _apply(variables, inputs, train=train)

    step = train.make_step(_noiseless, apply, distance, optax.sgd(0.1))

    def loss(variables):
        _, metrics = step.pure(new_state(optax.sgd(0.1)), variables, batch)
        return metrics["loss"]

    variables = NETWORK.init(jax.random.key(9), batch["image"])
    gradient = jax.grad(loss)(variables)
    assert seen
    assert set(seen) == {(False, None)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_update_equals_the_formula(batch, teacher):
    step = train.make_step(_noiseless, _noiseless, distance, optax.sgd(0.5))
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
    whole = train.make_step(_noiseless, _noiseless, distance, tx)
    cut = train.make_step(_noiseless, _noiseless, distance, tx, accumulate=parts)
    one, other = new_state(), new_state()
    for _ in range(3):
        one, expected = whole(one, teacher, batch)
        other, metrics = cut(other, teacher, batch)
    for name in ("loss", "masked", "plain", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(one.params["w"], other.params["w"], rtol=1e-4, atol=1e-6)


def test_accumulation_must_divide_the_batch(batch, teacher):
    step = train.make_step(_apply, _apply, distance, optax.adam(0.1), accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate=3 must divide.*8 rows"):
        step(new_state(), teacher, batch)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        train.make_step(_apply, _apply, distance, optax.adam(0.1), accumulate=0)


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
        _apply, None, lambda s, t, b: {"x": (s.logits**2).mean()}, optax.sgd(0.0)
    )
    run = train.run(step, new_state(optax.sgd(0.0)), None, [batch] * 3)
    losses = [metrics["loss"].item() for _, metrics in run]
    assert len(set(losses)) == 3


def test_scan_equals_the_loop(step, batch, teacher):
    state = new_state()
    losses = []
    for state, metrics in train.run(step, state, teacher, [batch] * 6):
        losses.append(metrics["loss"].item())
    chunk = trees.stack([batch] * 3)
    scanned = new_state()
    seen = []
    for scanned, metrics in train.run(
        train.scan(step, 3), scanned, teacher, [chunk] * 2
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

    step = train.make_step(_apply, _apply, objective, optax.adam(0.1))
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
    quiet = train.make_step(_noiseless, _noiseless, distance, optax.adam(0.1))
    one, expected = quiet(new_state(), teacher, batch)
    state, far = jax.device_put((new_state(), teacher), whole)
    other, metrics = quiet(state, far, jax.device_put(batch, rows))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(other.params["w"], one.params["w"], rtol=1e-5)


# --- what is not finite -----------------------------------------------------------


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
    return train.make_step(_apply, None, trap, optax.adam(0.1))


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
        ({"kink": True}, "kink", "its gradient is not finite"),
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
        outputs, _ = _noiseless(variables, inputs, train=train)
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


# --- misuse -------------------------------------------------------------------------


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
    step = train.make_step(_apply, None, objective, optax.adam(0.1))
    with pytest.raises(ValueError, match=message):
        step(new_state(), None, batch)


def test_networks_may_read_another_field(batch, teacher):
    other = {"signal": batch["image"], "mask": batch["mask"]}
    step = train.make_step(_apply, _apply, distance, optax.adam(0.1))
    with pytest.raises(ValueError, match=r"no field 'image'.*\['mask', 'signal'\]"):
        step(new_state(), teacher, other)
    for inputs in ("signal", lambda batch: batch["signal"]):
        step = train.make_step(_apply, _apply, distance, optax.adam(0.1), inputs=inputs)
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


# --- evaluation -----------------------------------------------------------------------


def measure(outputs, teacher, batch):
    right = outputs.logits.argmax(-1) == batch["label"]
    vector = jax.nn.one_hot(batch["label"], CLASSES)
    measured = {"accuracy": right.astype(jnp.float32), "vector": vector}
    if teacher is not None:
        same = outputs.logits.argmax(-1) == teacher.logits.argmax(-1)
        measured["agreement"] = same.astype(jnp.float32)
    return measured


def test_evaluation_leaves_padding_out(batch, teacher):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(11, INPUTS)).astype(np.float32)
    labels = rng.integers(CLASSES, size=11)
    evaluate = train.make_eval(_apply, measure, teacher_apply=_apply)
    variables = NETWORK.init(jax.random.key(1), images)
    parts = []
    for start in range(0, 11, 4):
        real = len(images[start : start + 4])
        pad = [(0, 4 - real)]
        parts.append({
            "image": np.pad(images[start : start + 4], [*pad, (0, 0)]),
            "label": np.pad(labels[start : start + 4], pad),
            "mask": np.arange(4) < real,
        })  # fmt: skip
    found = evaluate(variables, parts, teacher)
    predicted = (images @ variables["params"]["w"]).argmax(-1)
    taught = (images @ teacher["params"]["w"]).argmax(-1)
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())
    assert found["agreement"] == pytest.approx((predicted == taught).mean())
    np.testing.assert_allclose(found["vector"], np.eye(CLASSES)[labels].mean(0))


def test_evaluation_without_teacher_or_mask(batch):
    evaluate = train.make_eval(_apply, measure)
    variables = NETWORK.init(jax.random.key(1), batch["image"])
    found = evaluate(variables, [batch | {"mask": jnp.ones(ROWS, bool)}] * 2)
    assert set(found) == {"accuracy", "vector"}
    with pytest.raises(ValueError, match="no batches"):
        evaluate(variables, [])
