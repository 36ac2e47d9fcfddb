"""Teachers of other kinds beside each other: mixtures, views, one drawn a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import networks, objectives, teachers, train
from kdjax.base import Outputs
from tests.small import close, equal
from tests.twins import INPUTS, build

KEY = jax.random.key(7)
LINEN, NNX = build("linen", ("own",)), build("nnx", ("own",))
LINEAR = networks.from_function(
    lambda params, x: Outputs(x @ params, {"seen": x}),
    lambda key, x: jax.random.normal(key, (x.shape[-1], 3)),
)
MEMBERS = {"linen": LINEN, "nnx": NNX, "linear": LINEAR}


@pytest.fixture(scope="module")
def variables():
    return jax.jit(teachers.mixture(MEMBERS).init)(KEY, INPUTS)


@pytest.mark.parametrize("named", [True, False])
def test_a_mixture_is_its_members_side_by_side(named, variables):
    members = MEMBERS if named else list(MEMBERS.values())
    held = variables if named else tuple(variables[name] for name in MEMBERS)
    said = [one.apply(variables[name], INPUTS)[0] for name, one in MEMBERS.items()]
    outputs, after = jax.jit(teachers.mixture(members).apply)(held, INPUTS)
    equal(after, held)
    close(outputs.logits, teachers.mean_probabilities([s.logits for s in said]))
    names = MEMBERS if named else range(3)
    features = [
        f"{n}/{f}" for n, s in zip(names, said, strict=True) for f in s.features
    ]
    assert {*outputs.features} == {*features, "dropped_teachers"}
    apart = teachers.mixture(members, combine=None).apply(held, INPUTS)[0]
    close(apart.logits, tuple(s.logits for s in said))


def test_members_of_a_mixture_may_know_different_classes(variables):
    wide = networks.from_function(lambda params, x: x @ params)
    both = teachers.mixture((LINEAR, wide), combine=None)
    held = (variables["linear"], {"params": jnp.ones((INPUTS.shape[-1], 7))})
    logits = both.apply(held, INPUTS)[0].logits
    assert [z.shape[-1] for z in logits] == [3, 7]
    with pytest.raises(ValueError, match=r"of one shape.*combine=None leaves them"):
        teachers.mixture((LINEAR, wide)).apply(held, INPUTS)


@pytest.mark.parametrize(
    ("members", "held", "match"),
    [
        ((LINEAR, LINEAR), ({},), "a tuple of 2, one for each member"),
        ((LINEAR, LINEAR), {"a": 1}, r"a tuple of 2.*got \['a'\]"),
        ({"a": LINEAR}, {"b": {}}, r"a dict with \['a'\].*got \['b'\]"),
    ],
)
def test_wrong_variables_are_refused(members, held, match):
    with pytest.raises(ValueError, match=match):
        teachers.mixture(members).apply(held, INPUTS)
    for none in ([], LINEAR):
        with pytest.raises(ValueError, match="at least one member"):
            teachers.mixture(none)
    for make in (teachers.mixture, lambda m, c: teachers.ensemble(m[0], 2, c)):
        with pytest.raises(ValueError, match=r"combine must be a function .*'mean'"):
            make([LINEAR], "mean")


def test_a_viewed_teacher_sees_its_view(variables):
    twice = teachers.viewed(LINEAR, lambda x: 2 * x)
    outputs, _ = twice.apply(variables["linear"], INPUTS)
    close(outputs.features["seen"], 2 * INPUTS)
    small = teachers.viewed(LINEAR, lambda x: x[:, :2])
    assert small.init(KEY, INPUTS)["params"].shape == (2, 3)


# In the train step

STUDENT = networks.from_function(lambda params, x: x @ params["w"])
TX = optax.sgd(0.1)
BATCH = {"image": INPUTS, "label": jnp.zeros(len(INPUTS), int)}
THREE = teachers.stack([{"params": jnp.full((4, 3), x)} for x in (1.0, 2.0, 3.0)])


def new_state():
    return train.from_variables({"params": {"w": jnp.zeros((4, 3))}}, TX, KEY)


def test_a_teacher_is_drawn_anew_every_step():
    one = networks.from_function(lambda params, x: x * 0 + params[0, 0])
    teacher = teachers.drawn(one, 3)

    def objective(student, teacher, batch):
        first = teacher.logits[0, 0]
        return {"s": (student.logits**2).mean(), "which": objectives.logged(first)}

    step = train.make_step(STUDENT.apply, teacher.apply, objective, TX)
    state, seen = new_state(), []
    for _ in range(20):
        state, metrics = step(state, THREE, BATCH)
        seen.append(float(metrics["which"]))
        assert metrics["loss"] == metrics["s"]  # what is logged is no part of it
    assert set(seen) == {1.0, 2.0, 3.0}
    parts = train.make_step(
        STUDENT.apply, teacher.apply, objective, TX, accumulate=len(INPUTS)
    )
    _, metrics = parts(new_state(), THREE, BATCH)
    assert metrics["which"] == seen[0]  # one teacher for all parts of a step
    with pytest.raises(ValueError, match="drawn: needs rngs"):
        teacher.apply(THREE, INPUTS)


def test_a_teacher_of_nan_is_dropped_and_counted_in_the_step():
    linear = networks.from_function(lambda params, x: x @ params)
    several = teachers.ensemble(linear, 3, combine=None)

    def objective(student, teacher, batch):
        joined = teachers.mean_logits(teacher.logits)
        missing = objectives.logged(teachers.dropped(teacher.logits))
        return {"soft": ((student.logits - joined) ** 2).mean(), "dropped": missing}

    step = train.make_step(STUDENT.apply, several.apply, objective, TX)
    broken = {"params": THREE["params"].at[1].set(jnp.nan)}
    state, metrics = step(new_state(), broken, BATCH)
    assert metrics["dropped"] == 1
    assert metrics["skipped"] == 0
    others = {"params": THREE["params"][jnp.array([0, 2])]}
    two = teachers.ensemble(linear, 2, combine=None)
    step = train.make_step(STUDENT.apply, two.apply, objective, TX)
    expected, _ = step(new_state(), others, BATCH)
    np.testing.assert_allclose(state.params["w"], expected.params["w"], rtol=1e-6)
