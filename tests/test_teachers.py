import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks, teachers, trees
from kdjax.base import Network, Outputs
from tests.twins import INPUTS, build

KEY = jax.random.key(7)
BOTH = pytest.mark.parametrize("plan", ["vmap", "map"])


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def close(one, two, atol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), one, two)


@pytest.fixture(scope="module")
def linen():
    return build("linen", ("own", "encoder/hid"))


@pytest.fixture(scope="module")
def members(linen):
    start = jax.jit(linen.init)(KEY, INPUTS)
    return [jax.tree.map(lambda x, s=s: x * s + s - 1, start) for s in (1.0, 1.5, 0.5)]


# Frozen


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_frozen_evaluates_whatever_it_is_told(framework, members):
    network = build(framework, ("own",))
    teacher = teachers.frozen(network)
    expected, _ = network.apply(members[1], INPUTS)
    before = trees.fingerprint(members[1])
    for how in ({}, {"train": True}, {"train": True, "rngs": KEY}):
        outputs, after = teacher.apply(members[1], INPUTS, **how)
        equal(outputs, expected)
        assert after is members[1]
    assert trees.fingerprint(after) == before
    equal(teacher.init(KEY, INPUTS), network.init(KEY, INPUTS))


def test_statistics_do_not_drift_over_many_steps(linen, members):
    teacher = teachers.frozen(linen)

    @jax.jit
    def run(variables):
        def step(variables, _):
            _, variables = teacher.apply(variables, INPUTS + 5, train=True, rngs=KEY)
            return variables, None

        return jax.lax.scan(step, variables, length=20)[0]

    equal(run(members[1]), members[1])


def total(outputs):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs))


def test_no_gradient_passes_a_frozen_network(linen, members):
    def loss(apply, variables, inputs):
        return total(apply(variables, inputs)[0])

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    teacher = teachers.frozen(linen)
    for leaf in jax.tree.leaves(gradient(teacher.apply, members[1], INPUTS)):
        np.testing.assert_array_equal(leaf, 0)
    free = jax.tree.leaves(gradient(linen.apply, members[1], INPUTS))
    assert all(np.abs(leaf).max() > 0 for leaf in free)


def test_frozen_computes_no_tangents_and_stops_what_is_closed_over():
    """A callback has no derivative, so it fails if a tangent comes near it."""

    def host(params, x):
        return jax.pure_callback(
            np.square, jax.ShapeDtypeStruct((), x.dtype), x * params
        )

    apply = teachers.frozen(networks.from_function(host)).apply
    square = jax.value_and_grad(lambda w, x: apply({"params": w}, x)[0].logits, (0, 1))
    assert square(2.0, jnp.float32(3)) == (36, (0, 0))

    def closed_over(w):
        network = networks.from_function(lambda params, x: x * w)
        return teachers.frozen(network).apply({"params": ()}, 3.0)[0].logits

    assert jax.grad(closed_over)(2.0) == 0


def test_frozen_passes_keys_on_for_a_network_that_draws_in_evaluation():
    network = networks.from_function(lambda params, x, rngs: jax.random.normal(rngs))
    outputs, _ = teachers.frozen(network).apply({"params": ()}, 1.0, rngs=KEY)
    assert outputs.logits == jax.random.normal(KEY)


# Means


def test_means_are_what_their_names_say():
    logits = jax.random.normal(KEY, (4, 5, 3)) * 3
    z = np.asarray(logits, np.float64)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    close(jnp.exp(teachers.mean_probabilities(logits)), p.mean(0))
    close(teachers.mean_logits(logits), z.mean(0))


def test_mean_probabilities_at_the_edges():
    logits = jnp.array([[[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]], [[1e4, 1e4, 1e4]]])
    weights = jnp.array([[1.0, 2.0, 3.0]])

    def loss(logits):
        return (weights * teachers.mean_probabilities(logits)).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    mean = jax.jit(teachers.mean_probabilities)
    close(np.exp(mean(logits)), np.array([[4, 4, 1]]) / 9)
    # All teachers rule a class out: its logarithm is far below, but a number.
    sure = jnp.array([[[1e4, -1e4]], [[1e4, -1e4]]])
    close(mean(sure), np.array([[0.0, -2e4]]))
    # Sums over many classes need more than the 8 bits of bfloat16.
    assert jax.eval_shape(mean, logits.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("mean", [teachers.mean_logits, teachers.mean_probabilities])
@pytest.mark.parametrize(
    ("logits", "match"),
    [
        (jnp.ones(3), r"must be \[teachers, \.\.\., classes\]"),
        (jnp.ones((0, 2, 3)), "at least one teacher"),
        (jnp.ones((2, 3, 0)), "at least one class"),
        (jnp.ones((2, 3), int), "must be floating"),
    ],
)
def test_means_refuse_wrong_logits(mean, logits, match):
    with pytest.raises(ValueError, match=f"{mean.__name__}: .*{match}"):
        mean(logits)


# Ensembles


@BOTH
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_ensemble_is_its_members_combined(plan, framework, members):
    network = build(framework, ("own", "encoder/hid"))
    stacked = trees.stack(members)
    single = trees.stack([network.apply(v, INPUTS)[0] for v in members])

    for combine in (teachers.mean_probabilities, teachers.mean_logits):
        several = teachers.ensemble(network, 3, combine, plan=plan)
        outputs, after = several.apply(stacked, INPUTS)
        close(outputs.logits, combine(single.logits))
        assert outputs.features.pop("dropped_teachers") == 0
        close(outputs.features, single.features)
        assert outputs.features["own"].shape == (3, 5, 6)
        assert after is stacked


@BOTH
def test_training_updates_every_member_from_its_own_key(plan, linen, members):
    keys = jax.random.split(KEY, 3)
    step = functools.partial(linen.apply, inputs=INPUTS, train=True)
    single = trees.stack(
        [step(v, rngs=k) for v, k in zip(members, keys, strict=True)],
    )
    several = teachers.ensemble(linen, 3, teachers.mean_logits, plan=plan)
    apply = jax.jit(several.apply, static_argnames="train")
    for rngs in (KEY, {"dropout": KEY}):
        outputs, after = apply(trees.stack(members), INPUTS, train=True, rngs=rngs)
        close(after, single[1])
        assert jax.tree.structure(after) == jax.tree.structure(single[1])
    outputs, _ = apply(trees.stack(members), INPUTS, train=True, rngs=KEY)
    close(outputs.logits, single[0].logits.mean(0))


@BOTH
def test_gradients_reach_all_members_unless_frozen(plan, linen, members):
    several = teachers.ensemble(linen, 3, plan=plan)

    def loss(network, params, rest):
        outputs, _ = network.apply(
            {**rest, "params": params}, INPUTS, train=True, rngs=KEY
        )
        return total(outputs)

    rest = trees.stack(members)
    params = rest.pop("params")
    gradient = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    kernel = gradient(several, params, rest)["head"]["kernel"]
    assert (np.abs(kernel).max((1, 2)) > 0).all()
    for leaf in jax.tree.leaves(gradient(teachers.frozen(several), params, rest)):
        np.testing.assert_array_equal(leaf, 0)


@BOTH
def test_ensemble_of_one_is_the_network(plan, linen, members):
    outputs, _ = teachers.ensemble(linen, 1, plan=plan).apply(
        trees.stack(members[1:2]), INPUTS
    )
    expected, _ = linen.apply(members[1], INPUTS)
    close(outputs.logits, jax.nn.log_softmax(expected.logits))


def test_init_draws_different_members(linen):
    variables = teachers.ensemble(linen, 2).init(KEY, INPUTS)
    one, two = trees.unstack(variables)
    equal(one, linen.init(jax.random.split(KEY, 2)[0], INPUTS))
    assert not np.allclose(
        one["params"]["head"]["kernel"], two["params"]["head"]["kernel"]
    )


def test_parameters_stay_out_of_the_loop(linen, members):
    """Were they among what the loop returns, training would copy all of them."""
    several = teachers.ensemble(linen, 3, plan="map")
    stacked = trees.stack(members)
    _, after = several.apply(stacked, INPUTS, train=True, rngs=KEY)
    assert after["params"] is stacked["params"]


def test_map_is_a_loop_and_vmap_is_none(linen, members):
    for plan, loops in (("map", True), ("vmap", False)):
        several = teachers.ensemble(linen, 3, plan=plan)
        program = str(jax.make_jaxpr(several.apply)(trees.stack(members), INPUTS))
        assert ("scan[" in program) is loops


def test_ensemble_traces_its_network_once(linen, members):
    traces = []

    def apply(*args, **kwargs):
        traces.append(1)
        return linen.apply(*args, **kwargs)

    several = teachers.ensemble(Network(linen.init, apply), 3, plan="vmap")
    jitted = jax.jit(several.apply)
    for shift in (0, 1):
        jitted(trees.stack(members), INPUTS + shift)
    assert len(traces) == 1


def test_ensembles_nest_and_take_any_combination(linen, members):
    vote = lambda logits: logits.max(0)  # noqa: E731
    pairs = teachers.ensemble(teachers.ensemble(linen, 3, vote), 2, vote)
    stacked = trees.stack([trees.stack(members), trees.stack(members[::-1])])
    outputs, _ = pairs.apply(stacked, INPUTS)
    single = [linen.apply(v, INPUTS)[0].logits for v in members]
    close(outputs.logits, np.max(single, axis=0))
    assert outputs.features["own"].shape == (2, 3, 5, 6)


@pytest.mark.parametrize(
    "variables",
    [
        {"params": {"a": jnp.ones((3, 4)), "b": jnp.ones((2, 4))}},
        {"params": {"b": jnp.ones(())}},
        {"params": {"b": 1.0}},
    ],
)
def test_variables_that_are_not_stacked_are_refused(variables):
    network = networks.from_function(lambda params, inputs: inputs)
    for apply in (
        teachers.ensemble(network, 3).apply,
        jax.jit(teachers.ensemble(network, 3).apply),
    ):
        with pytest.raises(ValueError, match=r"leading axis \[3\].*params/b has shape"):
            apply(variables, INPUTS)


def test_wrong_arguments_are_refused(linen):
    with pytest.raises(ValueError, match="ensemble: size must be > 0, got 0"):
        teachers.ensemble(linen, 0)
    with pytest.raises(ValueError, match=r"plan must be one of .*, got 'pmap'"):
        teachers.ensemble(linen, 2, plan="pmap")


def test_outputs_of_other_kinds_pass():
    """A teacher may return integers, keys or nothing beside its logits."""
    network = networks.from_function(
        lambda params, x: Outputs(
            x * params, {"n": jnp.arange(3), "key": KEY, "no": None}
        )
    )
    outputs, _ = teachers.frozen(network).apply({"params": jnp.ones(3)}, jnp.ones(3))
    equal(outputs.features["n"], np.arange(3))
    assert outputs.features["no"] is None
