"""A network that computes with a function of its parameters."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from kdjax import networks, objectives, teachers, train, trees
from kdjax.base import Outputs
from kdjax.models import projectors
from kdjax.networks import Part
from tests.small import DROPOUT, IMAGES, KEY, STUDENT, TEACHER, applied, close, equal
from tests.twins import INPUTS, build


def halved(params):
    return jax.tree.map(lambda leaf: leaf / 2, params)


HALF = networks.transformed(STUDENT, halved)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(STUDENT.init)(KEY, IMAGES)


@pytest.mark.parametrize("train", [False, True])
def test_it_says_what_the_transformed_parameters_say(variables, train):
    seen = {**variables, "params": halved(variables["params"])}
    outputs, after = applied(HALF, train)(variables, IMAGES)
    expected, updated = applied(STUDENT, train)(seen, IMAGES)
    equal(outputs, expected)
    assert sorted(outputs.features) == ["map", "raw"]
    bare, _ = applied(STUDENT, train)(variables, IMAGES)
    assert not np.allclose(outputs.logits, bare.logits)
    # what is kept are the parameters that are trained, and the statistics
    equal(after["params"], variables["params"])
    equal(after["batch_stats"], updated["batch_stats"])
    moved = after["batch_stats"]["norm"]["mean"] != 0
    assert bool(moved.any()) is train


def test_its_variables_are_those_of_the_network(variables):
    equal(jax.jit(HALF.init)(KEY, IMAGES), variables)
    _, after = HALF.apply(variables, IMAGES, train=True)
    assert after["params"] is variables["params"]
    captured = networks.from_linen(
        nn.Sequential([nn.Dense(2), nn.Dense(3)]), ["layers_0"]
    )
    half = networks.transformed(captured, halved)
    given = half.init(KEY, INPUTS)
    outputs, _ = half.apply(given, INPUTS)
    kernel = given["params"]["layers_0"]["kernel"] / 2
    close(outputs.features["layers_0"], INPUTS @ kernel)


def test_gradients_pass_through_the_transform(variables):
    def total(network, params):
        outputs, _ = network.apply({**variables, "params": params}, IMAGES)
        return jnp.square(outputs.logits).sum()

    params = variables["params"]
    found = jax.jit(jax.grad(functools.partial(total, HALF)))(params)
    bare = jax.jit(jax.grad(functools.partial(total, STUDENT)))(halved(params))
    close(found, halved(bare))
    assert jnp.abs(found["head"]["kernel"]).max() > 0


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_modes_and_keys_reach_the_network(framework):
    bare = build(framework)
    half = networks.transformed(bare, halved)
    variables = half.init(KEY, INPUTS)
    seen = {**variables, "params": halved(variables["params"])}
    for how in ({}, {"train": True, "rngs": KEY}):
        outputs, after = half.apply(variables, INPUTS, **how)
        expected, updated = bare.apply(seen, INPUTS, **how)
        close(outputs, expected)
        close(after, {**updated, "params": variables["params"]})


def test_transforms_stand_in_each_other(variables):
    twice = networks.transformed(HALF, lambda p: jax.tree.map(lambda x: 3 * x, p))
    once = networks.transformed(STUDENT, lambda p: jax.tree.map(lambda x: 1.5 * x, p))
    close(applied(twice)(variables, IMAGES)[0], applied(once)(variables, IMAGES)[0])


def test_members_of_an_ensemble_are_transformed_as_each_alone():
    outside = networks.transformed(teachers.ensemble(STUDENT, 2), halved)
    inside = teachers.ensemble(HALF, 2)
    variables = jax.jit(outside.init)(KEY, IMAGES)
    for mode in (False, True):
        one, after = applied(outside, mode)(variables, IMAGES)
        other, updated = applied(inside, mode)(variables, IMAGES)
        close(one, other)
        close(after, updated)
    equal(after["params"], variables["params"])


def l2(student, teacher, batch):
    target = student.features["target"]
    return {
        "map": jnp.square(student.features["map"] - teacher.features["map"]).mean(),
        "target": jnp.square(target - student.logits).mean(),
    }


PARTS = {
    "map": projectors.ConvRegressor(5),
    "noise": Part(DROPOUT, "raw"),
    "target": Part(projectors.LinearEmbedding(3), teacher="logits"),
}


def test_a_step_hands_the_teacher_to_parts_inside_of_it():
    learner = networks.with_parts(STUDENT, PARTS, teacher=TEACHER)
    half = networks.transformed(learner, halved)
    assert "teacher" in inspect.signature(half.apply).parameters
    assert "teacher" not in inspect.signature(HALF.apply).parameters
    teacher = jax.jit(TEACHER.init)(jax.random.key(3), IMAGES)
    said = networks.shapes(half, IMAGES, teacher=TEACHER.apply(teacher, IMAGES)[0])
    assert said.features["target"].shape == (4, 3)

    tx, batch = optax.sgd(0.1), {"image": IMAGES}
    step = train.make_step(half.apply, TEACHER.apply, l2, tx)
    state = jax.jit(lambda key: train.init(half, tx, key, IMAGES))(KEY)
    first = jax.tree.map(np.asarray, state.variables)

    @jax.jit
    @jax.grad
    def gradient(params):
        key = jax.random.fold_in(state.key, 0)
        outputs, _ = learner.apply(
            {**first, "params": halved(params)},
            IMAGES,
            train=True,
            rngs=key,
            teacher=TEACHER.apply(teacher, IMAGES)[0],
        )
        terms = l2(outputs, TEACHER.apply(teacher, IMAGES)[0], batch)
        return terms["map"] + terms["target"]

    expected = jax.tree.map(
        lambda w, g: w - 0.1 * g, first["params"], gradient(first["params"])
    )
    state, _ = step(state, teacher, batch)
    close(state.params, expected)
    assert networks.parts_of(state.variables)["target"]["params"]
    moved = state.rest["batch_stats"]["network"]["norm"]["mean"]
    assert np.abs(np.asarray(moved)).max() > 0


def test_it_trains_to_what_a_network_of_such_parameters_says():
    """Weights kept at one norm, as by weight normalisation."""

    def unit(params):
        return {"w": params["w"] / jnp.linalg.norm(params["w"])}

    def init(key, inputs):
        return {"w": jax.random.normal(key, (4, 3))}

    linear = networks.from_function(lambda params, x: x @ params["w"], init)
    student = networks.transformed(linear, unit)
    target = unit({"w": jax.random.normal(jax.random.key(9), (4, 3))})
    batch = {"image": jax.random.normal(jax.random.key(8), (32, 4))}

    def objective(student: Outputs, teacher: Outputs, batch):
        errors = jnp.square(student.logits - teacher.logits).sum(-1)
        return {"l2": objectives.masked_mean(errors)}

    tx = optax.adam(0.1)
    step = train.make_step(student.apply, linear.apply, objective, tx)
    state = train.init(student, tx, KEY, batch["image"])
    for _ in range(150):
        state, metrics = step(state, {"params": target}, batch)
    assert metrics["loss"] < 1e-3
    assert trees.describe(state.params) == trees.describe(target)
    np.testing.assert_allclose(unit(state.params)["w"], target["w"], atol=0.02)
