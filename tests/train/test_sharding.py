"""Training on many devices computes what one device does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import data, losses, metrics, train, trees
from kdjax.base import Network, Padded
from tests.train import toy

STEPS, EXAMPLES = 20, 48
TX = optax.adam(0.05)


def related(student, teacher, batch):
    """Every kind of term: masked, plain, and between all examples of a batch."""
    arrays = student.logits, teacher.logits
    return {
        **toy.distance(student, teacher, batch),
        "distances": losses.rkd_distance(*arrays).mean(),
        "angles": losses.rkd_angle(*arrays).mean(),
        "similarities": losses.similarity_preserving(*arrays).mean(),
    }


def jittered(key, batch):
    """Draw for each image of the batch."""
    noise = 0.1 * jax.random.normal(key, batch["image"].shape)
    return {**batch, "image": batch["image"] + noise}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(EXAMPLES, toy.INPUTS)).astype(np.float32),
        "mask": rng.random(EXAMPLES) < 0.7,
    }


def trained(arrays, teacher, size, shardings=None, accumulate=1, objective=related):
    """Return the state after 20 steps, and the last step's metrics."""
    student = toy.apply
    if accumulate > 1:  # parts of a batch have noise and statistics of their own
        student, objective = toy.noiseless, toy.distance
    step = train.make_step(
        *(student, toy.apply, objective, TX),
        shardings=shardings,
        accumulate=accumulate,
    )
    example, key = jnp.zeros((1, toy.INPUTS)), jax.random.key(0)
    state = train.init(toy.NETWORK, TX, key, example, shardings=shardings)
    sharding = None
    if shardings:
        teacher, sharding = shardings.place_teacher(teacher), shardings.batch
    batches = data.Batches(arrays, size, transform=jittered, sharding=sharding)
    steps = (batches[number] for number in range(STEPS))
    for state, seen in train.run(step, state, teacher, steps):
        pass
    return state, seen


def assert_same(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(trees.to_host(one), other, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def alone(arrays, teacher):
    """What one device computes, by batch size."""
    return {size: trees.to_host(trained(arrays, teacher, size)) for size in (16, 20)}


@pytest.mark.parametrize(
    ("count", "model", "size", "cut"),
    [
        (1, 1, 20, ()),
        (2, 1, 16, ()),
        (8, 1, 16, ()),
        (8, 1, 20, ()),
        (4, 2, 20, ("model",)),
        (2, 2, 16, ("data", "model")),
    ],
)
def test_any_mesh_trains_like_one_device(
    arrays, teacher, alone, devices, count, model, size, cut
):
    mesh = train.make_mesh(count, model, devices=devices)
    rule = train.longest_axes(mesh, *cut, least=4) if cut else train.replicated
    state, seen = trained(arrays, teacher, size, train.Shardings(mesh, rule))
    assert_same((state, seen), alone[size])
    cut_into = state.params["w"].sharding.shard_shape((4, 3))
    assert cut_into == (4 // (model if cut == ("model",) else 4 if cut else 1), 3)
    assert state.opt_state[0].mu["w"].sharding == state.params["w"].sharding


def test_parts_of_an_uneven_batch_add_up_on_many_devices(arrays, teacher, devices):
    shardings = train.Shardings(train.make_mesh(8, devices=devices))
    found = trained(arrays, teacher, 20, shardings, accumulate=2)
    assert_same(found, trees.to_host(trained(arrays, teacher, 20, accumulate=2)))


def test_every_device_has_its_share_of_the_work(teacher, devices):
    wide = Network(
        lambda key, x: {"params": {"w": jnp.zeros((toy.INPUTS, 4096))}},
        lambda variables, x, **_: (
            toy.Outputs(jnp.tanh(x @ variables["params"]["w"])),
            variables,
        ),
    )

    def objective(student, teacher, batch):
        return {"norm": (student.logits**2).mean()}

    def flops(shardings, batch):
        step = train.make_step(wide.apply, None, objective, TX, shardings=shardings)
        state = train.init(wide, TX, jax.random.key(0), jnp.zeros((1, toy.INPUTS)))
        state = shardings.place(state) if shardings else state
        program = step.compiled.lower(state, None, batch).compile()
        return program.cost_analysis()["flops"]

    batch = {"image": np.zeros((250, toy.INPUTS), np.float32)}
    shardings = train.Shardings(train.make_mesh(8, devices=devices))
    filled = shardings.place_batch(batch)
    assert isinstance(filled, Padded)
    assert filled.count == 250
    assert flops(shardings, filled) < 0.2 * flops(None, batch)


def test_a_sweep_is_spread_by_its_batches(arrays, teacher, devices):
    settings = {"rate": [0.1, 0.01]}

    def swept(shardings):
        step = train.make_sweep_step(
            *(toy.apply, toy.apply, lambda setting: related),
            *(lambda setting: optax.sgd(setting["rate"]), settings),
            shardings=shardings,
        )
        keys = jax.random.split(jax.random.key(0), 2)
        make_tx = lambda setting: optax.sgd(setting["rate"])  # noqa: E731
        example = jnp.zeros((1, toy.INPUTS))
        state = train.init_sweep(toy.NETWORK, make_tx, settings, keys, example)
        batch, held = {name: x[:20] for name, x in arrays.items()}, teacher
        if shardings:
            state, held = shardings.place(state), shardings.place_teacher(teacher)
            batch = shardings.place_batch(batch)
        return step(state, held, batch)

    shardings = train.Shardings(train.make_mesh(8, devices=devices))
    assert_same(swept(shardings), trees.to_host(swept(None)))


def test_measures_are_means_over_all_devices(arrays, teacher, devices):
    shardings = train.Shardings(train.make_mesh(8, devices=devices))

    def measure(outputs, _, batch):
        return {"size": (outputs.logits**2).sum(-1)}

    def measured(shardings):
        evaluate = train.make_eval(toy.apply, measure, shardings=shardings)
        images = {"image": arrays["image"][:30]}
        held = shardings.place(teacher) if shardings else teacher
        sharding = shardings.batch if shardings else None
        return evaluate(held, data.epoch(images, 12, sharding=sharding))

    assert measured(shardings)["size"] == pytest.approx(measured(None)["size"], 1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 128), P("data", "model")),
        ((128, 64), P("model", "data")),
        ((128, 3), P(("model", "data"), None)),
        ((3, 5, 6), P(None, None, "model")),
        ((129, 63), P(None, None)),
        ((3, 7), P()),
        ((), P()),
    ],
)
def test_the_rule_cuts_the_longest_axes_that_fit(devices, shape, expected):
    mesh = train.make_mesh(4, 2, devices=devices)
    rule = train.longest_axes(mesh, "model", "data", least=32)
    assert rule("params/w", shape) == expected


def test_rules_may_look_at_paths_and_the_teacher_has_its_own(teacher, devices):
    mesh = train.make_mesh(2, 4, devices=devices)

    def own(path, shape):
        return P("model") if path == "params/w" else P()

    shardings = train.Shardings(mesh, teacher=own)
    placed = shardings.place_teacher(trees.cast(teacher, jnp.bfloat16))
    assert placed["params"]["w"].sharding.spec == P("model")
    assert placed["params"]["w"].dtype == jnp.bfloat16
    assert placed["batch_stats"]["mean"].sharding.is_fully_replicated
    assert shardings.of(teacher)["params"]["w"].spec == P()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 1), "data=9 x model=1 must be at least 1 each and at most the 8 devices"),
        ((None, 9), "data=all x model=9"),
        ((0, 1), "data=0 x model=1"),
    ],
)
def test_meshes_that_cannot_be_are_explained(devices, arguments, message):
    with pytest.raises(ValueError, match=message):
        train.make_mesh(*arguments, devices=devices)


def test_a_process_without_a_device_is_refused(devices):
    @dataclasses.dataclass(frozen=True)
    class Device:
        process_index: int

    with pytest.raises(ValueError, match=r"leaves the processes \[1\] without"):
        train.make_mesh(1, devices=[Device(0), Device(1)])


def test_a_mesh_needs_an_axis_for_batches(devices):
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    with pytest.raises(ValueError, match="needs an axis 'data'"):
        train.Shardings(mesh)


def test_users_may_bring_a_mesh_of_any_type(devices, teacher, arrays):
    mesh = jax.make_mesh((8,), ("data",), devices=devices)  # explicit, as JAX has it
    stream = data.Batches(arrays, 20, sharding=NamedSharding(mesh, P("data")))
    batch = stream[0]
    assert batch.count == 20
    np.testing.assert_array_equal(
        trees.to_host(batch.arrays["image"])[:20], arrays["image"][stream.indices(0)]
    )
    assert train.Shardings(mesh).batch.mesh.shape["data"] == 8


def test_placing_twice_copies_once(devices, teacher):
    shardings = train.Shardings(train.make_mesh(8, devices=devices))
    once = shardings.place(teacher)
    assert shardings.place(once)["params"]["w"] is once["params"]["w"]


def test_a_failed_step_is_blamed_on_the_examples_there_are(devices, teacher, arrays):
    def objective(student, teacher, batch):
        return {"bad": (student.logits / (batch["image"][:, :1] * 0)).mean()}

    shardings = train.Shardings(train.make_mesh(8, devices=devices))
    step = train.make_step(toy.apply, None, objective, TX, shardings=shardings)
    batch = shardings.place_batch({"image": arrays["image"][:20]})
    state = shardings.place(toy.new_state(TX))
    with pytest.raises(train.NonFiniteError, match="term 'bad': its value is"):
        list(train.run(step, state, None, [batch], max_skipped=1))


def test_figures_of_a_network_do_not_depend_on_devices(devices, arrays):
    labels = np.arange(20) % toy.CLASSES
    batch = {"image": arrays["image"][:20], "label": labels}
    held = toy.NETWORK.init(jax.random.key(3), batch["image"])
    shardings = train.Shardings(train.make_mesh(4, devices=devices))
    found = [
        train.make_eval(toy.apply, metrics.classification, shardings=where)(
            where.place(held) if where else held,
            data.epoch(batch, 8, sharding=where.batch if where else None),
        )
        for where in (None, shardings)
    ]
    assert found[0]["accuracy"] == found[1]["accuracy"]
