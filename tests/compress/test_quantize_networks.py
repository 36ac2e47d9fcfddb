"""Quantized weights in networks: after training, and while they train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import losses, models, networks, train, trees
from kdjax.compress import prune, quantize
from tests.compress.quantize_table import METHODS
from tests.small import IMAGES, STUDENT, equal

KEY = jax.random.key(2)
IMAGES_2D = jax.random.normal(KEY, (2, 8, 8, 1))
TOKENS = jnp.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0]])
NETWORKS = {
    "MLP": (models.MLP(3, 8), IMAGES),
    "ResNet": (models.ResNet(3, 8), IMAGES_2D),
    "GRU": (models.GRU(3, 8), IMAGES),
    "Transformer": (models.Transformer(3, 9, 8, 2, 1, length=6), TOKENS),
}
TWO_BITS = functools.partial(quantize.uniform, bits=2, bounds=quantize.mse())
FOUR_BITS = functools.partial(quantize.uniform, bits=4)
FEW = [
    "2-symmetric-channel-percentile",
    "3-affine-tensor-mse",
    "8-symmetric-channel-min_max",
    "3-kmeans",
    "8-power_of_two-tensor",
    "4-nf4-channel",
]


def bits_of(tree):
    """Return the bytes of every leaf, which tell 0.0 from -0.0."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_become_integers_and_nothing_else(name):
    module, inputs = NETWORKS[name]
    network = networks.from_linen(module)
    params = jax.jit(network.init)(KEY, inputs)["params"]
    small = jax.jit(lambda params: quantize.quantized(params, FOUR_BITS))(params)
    leaves = jax.tree.leaves_with_path(
        small, is_leaf=lambda leaf: isinstance(leaf, quantize.Quantized)
    )
    given = trees.select(params, lambda *_: True)
    assert len(leaves) == len(given)
    kinds = set()
    for path, leaf in leaves:
        path = trees.path_name(path)
        last, holds = path.rsplit("/", 1)[-1], isinstance(leaf, quantize.Quantized)
        assert holds is not last.endswith(("bias", "scale")), path
        kinds.add((last, holds))
        if holds:
            assert (leaf.shape, leaf.bits) == (given[path].shape, 4)
        else:
            np.testing.assert_array_equal(leaf, given[path])
    assert len(kinds) >= 2
    whole = quantize.dequantized(small)
    assert trees.describe(whole) == trees.describe(params)
    for path, leaf in trees.select(whole, lambda *_: True).items():
        # 15 values for each of the last axis, or all if it is no weight
        channels = np.asarray(leaf).reshape(-1, leaf.shape[-1]).T
        if path.endswith("kernel"):
            assert max(len(np.unique(row)) for row in channels) <= 15


def test_where_chooses_the_leaves():
    params = {
        "a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((2, 2))},
        "b": jnp.ones((4, 1)),
    }
    small = quantize.quantized(params, FOUR_BITS, where=lambda path, leaf: path == "b")
    assert isinstance(small["b"], quantize.Quantized)
    assert small["a"] is not params["a"]
    equal(small["a"], params["a"])
    by_default = quantize.quantized(params, FOUR_BITS)
    assert isinstance(by_default["a"]["kernel"], quantize.Quantized)
    equal(by_default["a"]["bias"], params["a"]["bias"])  # of two axes, as of attention
    through = quantize.straight_through(TWO_BITS, where=lambda path, leaf: path == "b")
    rough = {**params, "b": jnp.array([[0.4], [1.0], [2.0], [2.9]])}
    assert not np.array_equal(through(rough)["b"], rough["b"])
    equal(through(rough)["a"], params["a"])
    for use in (
        lambda where: quantize.quantized(params, FOUR_BITS, where=where),
        lambda where: quantize.straight_through(FOUR_BITS, where=where)(params),
    ):
        with pytest.raises(
            ValueError, match=r"where= must hold for one of a/bias, a/k"
        ):
            use(lambda path, leaf: False)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_straight_through_is_the_dequantized_weight_to_the_last_bit(name, dtype):
    rng = np.random.default_rng(6)
    weights = rng.normal(size=(12, 6)) * (rng.random((12, 6)) < 0.8)
    weights[0] = [-1e-7, 1e-7, -1e-30, 6e-5, -6e-8, 0.0]
    weights[1] = [50.3, -70.7, 30.1, -41.9, 63.3, -57.7]  # some methods clip these
    params = {"kernel": jnp.asarray(weights, dtype), "bias": jnp.ones(6, dtype)}
    method = METHODS[name]
    through = quantize.straight_through(method)

    @jax.jit
    def both(params, cotangent):
        there, back = jax.vjp(through, params)
        return (
            there,
            quantize.dequantized(quantize.quantized(params, method)),
            back(cotangent),
        )

    cotangent = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape, x.dtype), params)
    there, expected, (gradient,) = both(params, cotangent)
    assert bits_of(there) == bits_of(expected)
    assert bits_of(gradient) == bits_of(cotangent)
    assert trees.describe(there) == trees.describe(params)
    if dtype == "bfloat16":
        once = quantize.dequantized(quantize.quantized(params, method))
        assert bits_of(through(params)) == bits_of(once)


STUDENT_OF = networks.from_linen(models.MLP(classes=4, width=8, depth=1))
TEACHER = networks.from_linen(models.MLP(classes=4, width=16, depth=1))
BATCH = {"image": jax.random.normal(jax.random.key(5), (64, 6))}
TX = optax.adam(0.03)


def soft(student, teacher, batch):
    kl = losses.soft_target_kl(student.logits, teacher.logits, temperature=2.0)
    return {"soft": kl.mean()}


@pytest.fixture(scope="module")
def teacher():
    variables = jax.jit(TEACHER.init)(jax.random.key(9), BATCH["image"])
    return jax.tree.map(lambda leaf: 2 * leaf, variables)


def trained(network, teacher, steps, state=None, tx=TX):
    """Return the state after some steps, and the losses."""
    step = train.make_step(network.apply, TEACHER.apply, soft, tx)
    if state is None:
        state = train.init(network, tx, jax.random.key(1), BATCH["image"])
    seen = []
    for _ in range(steps):
        state, metrics = step(state, teacher, BATCH)
        seen.append(float(metrics["loss"]))
    return state, seen


@pytest.mark.parametrize("name", ["3-symmetric-channel-min_max", "3-kmeans"])
def test_a_network_learns_quantized_and_keeps_floats(teacher, name):
    through = quantize.straight_through(METHODS[name])
    coarse = networks.transformed(STUDENT_OF, through)
    state, seen = trained(coarse, teacher, 30)
    assert seen[-1] < 0.5 * seen[0]
    bare = jax.eval_shape(STUDENT_OF.init, KEY, BATCH["image"])
    assert trees.describe(state.variables) == trees.describe(bare)
    assert len(np.unique(state.params["dense1"]["kernel"])) == 48
    # what it says is what the quantized weights say
    said = jax.jit(coarse.apply)(state.variables, BATCH["image"])[0].logits
    small = quantize.quantized(state.params, METHODS[name])
    params = quantize.dequantized(small)
    expected = jax.jit(STUDENT_OF.apply)({"params": params}, BATCH["image"])[0].logits
    np.testing.assert_allclose(said, expected, rtol=1e-5, atol=1e-6)


def test_pruned_weights_stay_zero_in_quantized_training(teacher):
    start = STUDENT_OF.init(KEY, BATCH["image"])["params"]
    mask = prune.unstructured(start, 0.7)
    gone = [~np.asarray(m) for m in jax.tree.leaves(mask)]
    for name in ("3-affine-channel-mse", "3-kmeans"):
        through = quantize.straight_through(METHODS[name])
        tx = prune.fixed(TX, mask)
        state = train.from_variables({"params": jax.tree.map(jnp.copy, start)}, tx, KEY)
        coarse = networks.transformed(STUDENT_OF, through)
        state, seen = trained(coarse, teacher, 20, state, tx)
        assert seen[-1] < seen[0]
        for params in (state.params, jax.jit(through)(state.params)):
            leaves = jax.tree.leaves(params)
            for leaf, out in zip(leaves, gone, strict=True):
                assert (np.asarray(leaf)[out] == 0).all()
        assert (np.asarray(leaves[1]) != 0).any()


def test_distilling_a_quantized_student_beats_quantizing_a_distilled_one(teacher):
    """At 2 bits, after as many steps."""
    coarse = networks.transformed(STUDENT_OF, quantize.straight_through(TWO_BITS))
    halfway, _ = trained(STUDENT_OF, teacher, 60)
    copy = functools.partial(jax.tree.map, jnp.copy)
    whole, seen = trained(STUDENT_OF, teacher, 120, copy(halfway))
    aware, _ = trained(coarse, teacher, 120, halfway)

    @jax.jit
    def loss(network_params):
        said = coarse.apply({"params": network_params}, BATCH["image"])[0]
        target = TEACHER.apply(teacher, BATCH["image"])[0]
        return soft(said, target, BATCH)["soft"]

    after, during = float(loss(whole.params)), float(loss(aware.params))
    assert seen[-1] < during < 0.7 * after


def test_a_network_with_statistics_learns_quantized():
    coarse = networks.transformed(STUDENT, quantize.straight_through(FOUR_BITS))
    variables = jax.jit(STUDENT.init)(KEY, IMAGES)
    given = quantize.dequantized(quantize.quantized(variables["params"], FOUR_BITS))
    for mode in (False, True):
        how = functools.partial(coarse.apply, train=mode)
        outputs, after = jax.jit(how)(variables, IMAGES)
        expected, updated = jax.jit(functools.partial(STUDENT.apply, train=mode))(
            {**variables, "params": given}, IMAGES
        )
        np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-6)
        equal(after["params"], variables["params"])
        mean = after["batch_stats"]["norm"]["mean"]
        np.testing.assert_allclose(
            mean, updated["batch_stats"]["norm"]["mean"], atol=1e-6
        )
