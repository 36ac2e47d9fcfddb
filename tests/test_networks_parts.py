"""Learned parts beside a student: held with it, the student unchanged."""

import jax
import numpy as np
import pytest

from kdjax import networks, trees
from kdjax.models import projectors
from kdjax.networks import Part
from tests.small import DROPOUT, IMAGES, KEY, STUDENT, TEACHER, applied, close, equal
from tests.twins import INPUTS, build


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_student_is_the_bare_one(framework):
    bare = build(framework, ("own", "encoder/hid"))
    parts = {
        "encoder/hid": projectors.VariationalRegressor(2),
        "embedded": Part(projectors.LinearEmbedding(4), "own"),
    }
    student = networks.with_parts(bare, parts)

    @jax.jit
    def both(key):
        variables, own = (network.init(key, INPUTS) for network in (student, bare))
        applied = [
            network.apply(given, INPUTS, train=train, rngs=key)
            for network, given in ((student, variables), (bare, own))
            for train in (False, True)
        ]
        return variables, own, applied

    variables, own, applied = both(KEY)
    equal(networks.without_parts(variables), own)
    assert sorted(networks.parts_of(variables)) == sorted(parts)
    equal(networks.join_parts(own, networks.parts_of(variables)), variables)
    for (outputs, after), (expected, updated) in zip(
        applied[:2], applied[2:], strict=True
    ):
        close(outputs.logits, expected.logits)
        close(outputs.features["own"], expected.features["own"])
        close(networks.without_parts(after), updated)
        assert trees.describe(after) == trees.describe(variables)
    mean, log_scale = outputs.features["encoder/hid"]
    assert (mean.shape, log_scale.shape) == ((5, 2), (2,))
    assert outputs.features["embedded"].shape == (5, 4)
    assert student.apply(variables, INPUTS)[1] is variables


def test_statistics_of_parts_change_in_training_only():
    student = networks.with_parts(STUDENT, {"map": projectors.ConvRegressor(5)})
    variables = jax.jit(student.init)(KEY, IMAGES)
    held = networks.parts_of(variables)["map"]
    _, after = applied(student)(variables, IMAGES)
    equal(after, variables)
    outputs, after = applied(student, train=True)(variables, IMAGES)
    now = networks.parts_of(after)["map"]
    equal(now["params"], held["params"])
    assert not np.allclose(now["batch_stats"]["norm"]["mean"], 0)
    # of the batch's own statistics, not of those held
    assert np.abs(outputs.features["map"]).max() > 0.5
    bare, _ = applied(STUDENT, train=True)(networks.without_parts(variables), IMAGES)
    kernel = held["params"]["conv"]["kernel"][0]
    x = np.asarray(bare.features["map"]) @ np.asarray(kernel)
    x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    np.testing.assert_allclose(outputs.features["map"], np.maximum(x, 0), atol=1e-4)


def test_each_part_has_its_own_key():
    noise = {"one": Part(DROPOUT, "map"), "two": Part(DROPOUT, "map")}
    student = networks.with_parts(STUDENT, noise)
    variables = student.init(KEY, IMAGES)
    for rngs in (KEY, {"dropout": KEY}):
        outputs, _ = student.apply(variables, IMAGES, train=True, rngs=rngs)
        one, two = (np.asarray(outputs.features[name]) == 0 for name in noise)
        assert (one != two).any()
    still, _ = student.apply(variables, IMAGES)
    equal(still.features["one"], still.features["map"])

    embedding = projectors.LinearEmbedding(2)
    alone = networks.with_parts(STUDENT, {"b": Part(embedding, "map")})
    more = networks.with_parts(
        STUDENT, {"a": Part(embedding, "map"), "b": Part(embedding, "map")}
    )
    first, second = (
        networks.parts_of(jax.jit(network.init)(KEY, IMAGES))
        for network in (alone, more)
    )
    equal(first["b"], second["b"])
    kernels = [second[name]["params"]["dense"]["kernel"] for name in ("a", "b")]
    assert not np.allclose(*kernels)


def test_parts_run_in_their_order():
    double = networks.from_function(lambda params, x: 2 * x, lambda key, x: {})
    parts = {"map": double, "twice": Part(double, "map"), "logits": double}
    student = networks.with_parts(STUDENT, parts)
    variables = student.init(KEY, IMAGES)
    outputs, _ = student.apply(variables, IMAGES)
    bare, _ = STUDENT.apply(networks.without_parts(variables), IMAGES)
    close(outputs.features["map"], 2 * bare.features["map"])
    close(outputs.features["twice"], 4 * bare.features["map"])
    close(outputs.logits, 2 * bare.logits)


def test_wrong_parts_are_named():
    embedding = projectors.LinearEmbedding(2)
    with pytest.raises(ValueError, match="at least one part"):
        networks.with_parts(STUDENT, {})
    with pytest.raises(ValueError, match="must read something"):
        Part(embedding)
    with pytest.raises(ValueError, match=r"from_nnx and .* got type"):
        networks.with_parts(STUDENT, {"map": projectors.LinearEmbedding})
    wrong = networks.with_parts(STUDENT, {"mapp": embedding})
    listed = (
        r"the student of part 'mapp': no intermediate is called 'mapp'\. "
        r"Did you mean 'map'\? There are: logits, map, raw"
    )
    with pytest.raises(ValueError, match=listed):
        wrong.init(KEY, IMAGES)
    wrong = networks.with_parts(
        STUDENT, {"x": Part(embedding, teacher=("map", "top"))}, teacher=TEACHER
    )
    with pytest.raises(ValueError, match=r"the teacher of part 'x': no .* 'top'"):
        wrong.init(KEY, IMAGES)
    bare = jax.eval_shape(STUDENT.init, KEY, IMAGES)
    for function in (networks.without_parts, networks.parts_of):
        with pytest.raises(ValueError, match=r"no variables of with_parts.*'norm'"):
            function(bare)
