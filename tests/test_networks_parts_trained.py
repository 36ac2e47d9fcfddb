"""Learned parts in training: with the teacher beside them, saved, not exported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import checkpoint, metrics, networks, train, trees
from kdjax.models import projectors
from kdjax.networks import Part
from tests.small import DROPOUT, IMAGES, KEY, STUDENT, TEACHER, applied, close, equal

BATCH = {"image": IMAGES, "label": jnp.array([0, 1, 2, 1])}


@pytest.fixture(scope="module")
def teacher_variables():
    return jax.jit(TEACHER.init)(jax.random.key(3), IMAGES)


SEEING = {
    "map": projectors.ConvRegressor(5),
    "target": Part(projectors.LinearEmbedding(3), teacher="logits"),
    "both": Part(projectors.CrossLayerAttention(2), ("map",), ("map", "raw")),
    "later": Part(projectors.LinearEmbedding(2), "target"),
}


def objective(student, teacher, batch):
    weights, mine, yours = student.features["both"]
    differences = [
        jnp.square(mine[0][layer] - yours[0][layer]).mean((1, 2)) for layer in (0, 1)
    ]
    return {
        "map": jnp.square(student.features["map"] - teacher.features["map"]).mean(),
        "both": (weights[:, 0] * jnp.stack(differences, axis=1)).mean(),
        "target": jnp.square(student.features["target"] - student.logits).mean(),
        "later": jnp.square(student.features["later"]).mean(),
    }


def test_step_trains_student_and_parts_and_not_the_teacher(tmp_path, teacher_variables):
    student = networks.with_parts(STUDENT, SEEING, teacher=TEACHER)
    step = train.make_step(student.apply, TEACHER.apply, objective, optax.sgd(0.1))
    state = jax.jit(lambda key: train.init(student, optax.sgd(0.1), key, IMAGES))(KEY)
    before = jax.tree.map(np.asarray, state.variables)
    state, first = step(state, teacher_variables, BATCH)
    moved = jax.tree.map(
        lambda old, new: bool((old != np.asarray(new)).any()), before, state.variables
    )
    still = {path for path, value in trees.select(moved, lambda *_: True).items()
             if not value}  # fmt: skip
    still -= {path for path in still if path.endswith("conv/bias")}  # normalised away
    assert still == set()
    for _ in range(5):
        state, seen = step(state, teacher_variables, BATCH)
    assert seen["map"] < first["map"]

    checkpoint.save_variables(tmp_path, state.variables, {})
    found = checkpoint.load_variables(tmp_path, state.variables)
    equal(found[0], state.variables)
    own = networks.without_parts(found[0])
    bare = jax.eval_shape(STUDENT.init, KEY, IMAGES)
    assert trees.describe(own) == trees.describe(bare)

    evaluate = train.make_eval(student.apply, metrics.classification)
    alone = train.make_eval(STUDENT.apply, metrics.classification)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        evaluate(state.variables, [BATCH]),
        alone(own, [BATCH]),
    )


def test_no_gradient_reaches_the_teacher(teacher_variables):
    student = networks.with_parts(
        STUDENT, {"target": SEEING["target"]}, teacher=TEACHER
    )

    def objective(student, teacher, batch):
        return {"l2": jnp.square(student.features["target"] - student.logits).mean()}

    step = train.make_step(student.apply, TEACHER.apply, objective, optax.sgd(0.1))
    state = jax.jit(lambda key: train.init(student, optax.sgd(0.1), key, IMAGES))(KEY)

    @jax.jit
    @jax.grad
    def gradient(variables):
        return step.pure(state, variables, BATCH)[1]["loss"]

    found = gradient(teacher_variables)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


def test_teacher_is_needed_in_training_only():
    student = networks.with_parts(STUDENT, SEEING, teacher=TEACHER)
    variables = jax.eval_shape(student.init, KEY, IMAGES)
    outputs, _ = jax.eval_shape(student.apply, variables, IMAGES)
    assert sorted(outputs.features) == ["map", "raw"]
    with pytest.raises(ValueError, match=r"needs the teacher's outputs for \['both'"):
        student.apply(variables, IMAGES, train=True)
    with pytest.raises(ValueError, match="part 'target' reads the teacher: pass"):
        networks.with_parts(STUDENT, SEEING).init(KEY, IMAGES)

    # also where parts are held around parts
    outer = networks.with_parts(student, {"more": Part(DROPOUT, "map")})
    held = jax.eval_shape(outer.init, KEY, IMAGES)
    assert trees.describe(networks.without_parts(held)) == trees.describe(variables)
    said = networks.shapes(TEACHER, IMAGES)
    outputs, _ = jax.eval_shape(
        lambda v, x, t: outer.apply(v, x, train=True, rngs=KEY, teacher=t),
        held,
        IMAGES,
        said,
    )
    assert sorted(outputs.features) == ["both", "later", "map", "more", "raw", "target"]


def test_classifier_of_the_teacher_is_held_and_not_trained(teacher_variables):
    head = teacher_variables["params"]["head"]
    parts = {
        "map": projectors.SimKDProjector(5),
        "logits": Part(projectors.ReusedClassifier(**head), "map"),
    }
    student = networks.with_parts(STUDENT, parts)

    def objective(student, teacher, batch):
        return {"l2": jnp.square(student.logits - teacher.logits).mean()}

    tx = optax.adamw(0.1, weight_decay=0.1)
    step = train.make_step(student.apply, TEACHER.apply, objective, tx)
    state = jax.jit(lambda key: train.init(student, tx, key, IMAGES))(KEY)
    for state, _ in train.run(step, state, teacher_variables, [BATCH] * 2):
        pass
    equal(networks.parts_of(state.variables)["logits"], {"frozen": head})
    outputs, _ = applied(student)(state.variables, IMAGES)
    expected = outputs.features["map"].mean(1) @ head["kernel"] + head["bias"][None]
    close(outputs.logits, expected)

    # what the teacher shows, classified, is what the teacher says
    taught, _ = TEACHER.apply(teacher_variables, IMAGES)
    classify = projectors.ReusedClassifier(**head)
    logits, _ = classify.init_with_output(KEY, taught.features["map"])
    close(logits, taught.logits)


def test_paraphraser_is_trained_alone_and_then_belongs_to_the_teacher(
    tmp_path, teacher_variables
):
    module = projectors.Paraphraser(0.5)
    learner = networks.with_parts(
        None, {"map": Part(module, teacher="map")}, teacher=TEACHER
    )

    def rebuild(student, teacher, batch):
        _, rebuilt = student.features["map"]
        return {"l2": jnp.square(rebuilt - teacher.features["map"]).mean()}

    tx = optax.adam(0.01)
    step = train.make_step(learner.apply, TEACHER.apply, rebuild, tx)
    state = jax.jit(lambda key: train.init(learner, tx, key, IMAGES))(KEY)
    losses = []
    for state, seen in train.run(step, state, teacher_variables, [BATCH] * 30):
        losses.append(float(seen["l2"]))
    assert losses[-1] < 0.7 * losses[0]
    assert networks.without_parts(state.variables) == {}
    checkpoint.save_variables(tmp_path, state.variables, {})
    saved, _ = checkpoint.load_variables(tmp_path, state.variables)

    teacher = networks.with_parts(TEACHER, {"factor": Part(module, "map")})
    variables = networks.join_parts(
        teacher_variables, {"factor": networks.parts_of(saved)["map"]}
    )
    described = trees.describe(jax.eval_shape(teacher.init, KEY, IMAGES))
    assert trees.describe(variables) == described
    outputs, _ = applied(teacher)(variables, IMAGES)
    bare, _ = applied(TEACHER)(teacher_variables, IMAGES)
    close(outputs.logits, bare.logits)
    factor, rebuilt = outputs.features["factor"]
    assert factor.shape == (4, 4, 2)
    l2 = jnp.square(rebuilt - bare.features["map"]).mean()
    assert l2 < 0.7 * losses[0]
