"""Runs that prune: wrapped, resumed, swept, rewound, distilled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import (
    checkpoint,
    data,
    losses,
    metrics,
    models,
    networks,
    teachers,
    train,
    trees,
)
from kdjax.compress import prune
from tests.compress.prune_table import number, pruned
from tests.compress.prune_toy import (
    BATCH,
    KEY,
    NETWORK,
    TEACHER,
    assert_zero,
    distance,
    held,
    make,
    start,
    trained,
)
from tests.small import equal
from tests.train.toy import same


def injected(rate, sparsity):
    return prune.scheduled(optax.sgd(rate), prune.one_shot(sparsity, at=1))


PRUNING = prune.scheduled(optax.adam(0.05), prune.one_shot(0.5, at=1))
LABELS = {"one": "pruned", "two": "dense"}
WRAPPED = {
    "bare": PRUNING,
    "injected": optax.inject_hyperparams(injected)(rate=0.1, sparsity=0.5),
    "injected inside": prune.scheduled(
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), prune.one_shot(0.5)
    ),
    "chained": optax.chain(optax.clip_by_global_norm(1.0), PRUNING),
    "multi": optax.multi_transform(
        {"pruned": PRUNING, "dense": optax.sgd(1e-2)}, LABELS
    ),
    "masked": optax.masked(PRUNING, {"one": True, "two": False}),
    "every second": optax.MultiSteps(PRUNING, 2),
    "finite": optax.apply_if_finite(PRUNING, 3),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_it_prunes_and_a_resumed_run_repeats_the_bits(name, tmp_path):
    tx = WRAPPED[name]
    step = make(tx)
    *_, (_, params, found) = trained(step, start(tx), 5)
    mask = prune.mask_in(found)
    assert prune.sparsity(mask) == 0.5
    assert_zero(params["one"], mask["one"])
    state = start(tx)
    for _ in range(3):
        state, _ = step(state, TEACHER, BATCH)
    saved = held(prune.mask_in(state.opt_state))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        checkpoints.wait()
        again = checkpoints.restore(jax.eval_shape(lambda: start(tx))).state
    assert same(prune.mask_in(again.opt_state), saved)
    *_, (_, resumed, after) = trained(step, again, 2)
    assert same((resumed, after), (params, found))


def test_a_sweep_of_sparsities():
    settings = {"sparsity": [0.1, 0.5, 0.9], "rate": [0.1, 0.1, 0.05]}

    def make_tx(setting):
        rising = prune.cubic(setting["sparsity"], start=1, stop=3)
        return prune.scheduled(optax.adam(setting["rate"]), rising, scope="global")

    step = train.make_sweep_step(
        NETWORK.apply, NETWORK.apply, lambda _: distance, make_tx, settings
    )
    keys = jnp.stack([KEY] * 3)
    state = train.init_sweep(NETWORK, make_tx, settings, keys, BATCH["image"])
    *_, (_, params, found) = trained(step, state, 5)
    assert found.sparsity.tolist() == [np.float32(s) for s in settings["sparsity"]]
    for sparsity, *member in zip(
        settings["sparsity"], *map(trees.unstack, (params, found.mask)), strict=True
    ):
        assert pruned(member[1]) == number(sparsity, 42)
        assert_zero(*member)
    tx = make_tx({"sparsity": 0.9, "rate": 0.05})
    *_, (_, alone, _) = trained(make(tx), start(tx), 5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), member[0], alone
    )


def test_a_step_that_is_not_finite_changes_neither_mask_nor_count():
    tx = prune.scheduled(optax.adam(0.1), prune.one_shot(0.5, at=1))
    step = make(tx)
    state, _ = step(start(tx), TEACHER, BATCH)
    before = held(state.opt_state)
    assert before.mask["two"]["kernel"].all()
    bad = {"image": BATCH["image"] * jnp.nan}
    state, metrics = step(state, TEACHER, bad)
    assert metrics["skipped"] == 1
    equal(held(state.opt_state), before)
    state, _ = step(state, TEACHER, BATCH)
    assert state.opt_state.step == 2
    assert prune.sparsity(state.opt_state.mask) == 0.5


def test_a_winning_ticket_is_rewound_and_trained_on(tmp_path):
    tx = optax.adam(0.1)
    step, state = make(tx), start(tx)
    with checkpoint.Checkpoints(tmp_path, keep=1, keep_steps=(2,)) as checkpoints:
        for number_of_step in range(1, 13):
            state, _ = step(state, TEACHER, BATCH)
            checkpoints.save(number_of_step, state)
            if number_of_step == 2:
                early = held(state.params)
        checkpoints.wait()
    mask = prune.unstructured(state.params, 0.6, scope="global")
    assert not same(mask, prune.unstructured(early, 0.6, scope="global"))
    rewound = teachers.from_checkpoints(tmp_path, 2)
    ticket = prune.apply(rewound["params"], mask)
    equal(ticket, jax.tree.map(lambda was, stays: was * stays, early, mask))
    tx = prune.fixed(tx, mask)
    state = train.from_variables({"params": ticket}, tx, KEY)
    for before, params, found in trained(make(tx), state, 3):
        assert_zero(before, mask)
        assert_zero(params, mask)
        equal(found.mask, mask)
        assert not same(before, params)


def test_its_own_teacher_recovers_what_pruning_lost():
    task = data.load("digits")
    network = networks.from_linen(models.MLP(10, 32, depth=1))

    def prepared(split):
        image = jnp.asarray(split["image"], jnp.float32) / 255
        return {"image": image, "label": jnp.asarray(split["label"])}

    batch, test = prepared(task.train), prepared(task.test)

    def hard(student, teacher, batch):
        return {
            "hard": metrics.negative_log_likelihood(
                student.logits, batch["label"]
            ).mean()
        }

    def soft(student, teacher, batch):
        return {
            "soft": losses.soft_target_kl(
                student.logits, teacher.logits, temperature=4.0
            ).mean()
        }

    def trained_with(objective, tx, variables, teacher):
        step = train.make_step(network.apply, network.apply, objective, tx)
        batches = jax.tree.map(lambda x: jnp.broadcast_to(x, (50, *x.shape)), batch)
        state = train.from_variables(variables, tx, KEY)
        return train.scan(step, 50)(state, teacher, batches)[0].variables

    say = jax.jit(lambda variables: network.apply(variables, test["image"])[0].logits)
    start = network.init(KEY, batch["image"])
    dense = trained_with(hard, optax.adam(0.02), start, start)
    assert metrics.accuracy(say(dense), test["label"]).mean() > 0.85
    mask = prune.unstructured(dense["params"], 0.8, scope="global")
    pruned_once = {"params": prune.apply(dense["params"], mask)}
    tx = prune.fixed(optax.adam(0.02), mask)
    recovered = trained_with(soft, tx, pruned_once, dense)
    before, after = (
        float(metrics.agreement(say(one), say(dense)).mean())
        for one in (pruned_once, recovered)
    )
    assert after > before + 0.2
    assert prune.sparsity(recovered["params"]) == prune.sparsity(mask)


def test_sensitivity_is_that_of_masks_applied_by_hand():
    kernel = jnp.array([[0.4, -3.0], [2.0, -0.2]])
    params = {"one": {"kernel": kernel}, "two": {"kernel": 2 * kernel[:1]}}
    params |= {"norm": {"scale": jnp.ones(2)}}
    sparsities = (0.0, 0.25, 0.5, 1.0)

    def measure(params):
        assert trees.describe(params)["norm/scale"] == "float32[2]"
        return float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(params)))

    for score in (prune.l1, prune.random(KEY)):
        found = prune.sensitivity(measure, params, sparsities, score=score)
        assert list(found) == ["one/kernel", "two/kernel"]
        for path, figures in found.items():
            where = lambda one, _, path=path: one == path  # noqa: E731
            by_hand = [
                prune.apply(
                    params, prune.unstructured(params, s, score=score, where=where)
                )
                for s in sparsities
            ]
            assert figures == [measure(one) for one in by_hand]
            assert figures[0] == measure(params) > figures[-1]
    scale = prune.sensitivity(measure, params, (1,), where=lambda p, _: "scale" in p)
    assert scale == {"norm/scale": [measure(params) - 2]}
