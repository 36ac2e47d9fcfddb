"""Packed arrays and the files of them: small, exact, and never wrong numbers."""

import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import core

from kdjax import compress, models, networks, trees
from kdjax.compress import _pack, prune, quantize
from tests.compress.quantize_table import BITS, METHODS

PACKED = [name for name in METHODS if not name.endswith(("percentile", "mse"))]
FEW = ["3-affine-channel-min_max", "8-symmetric-tensor-min_max", "5-kmeans"]
_RNG = np.random.default_rng(3)
# so far from 0 that no method rounds them to it
WEIGHTS = np.float32(_RNG.uniform(0.7, 1, (16, 12)) * _RNG.choice([-1, 1], (16, 12)))
EDGES = {
    "ordinary": jnp.linspace(-1, 1, 6).reshape(2, 3),
    "zeros with signs": jnp.array([0.0, -0.0] * 40),
    "not a number": jnp.array([jnp.nan, jnp.inf, -jnp.inf] + [0.0] * 90),
    "many zeros": jnp.zeros((9, 11)).at[3, 4].set(-2.0),
    "all zeros": jnp.zeros((5, 7)),
    "subnormal": jnp.array([1e-45, -1e-40] + [0.0] * 50),
    "no axis": jnp.float32(3.5),
    "empty": jnp.zeros((0, 3)),
    "integers": jnp.arange(-3, 200),
    "zero integers": jnp.zeros(80, jnp.int8),
    "booleans": jnp.zeros((4, 20), bool).at[1].set(True),
    "bfloat16": jnp.zeros((8, 8), jnp.bfloat16).at[0].set(-1.3),
    "one bfloat16": jnp.bfloat16(2.5),
    "empty bfloat16": jnp.zeros((3, 0), jnp.bfloat16),
    "float16": jnp.linspace(0, 1, 5, dtype=jnp.float16),
    "float8": jnp.linspace(0, 1, 5).astype(jnp.float8_e4m3fn),
    "int4": jnp.arange(-8, 8).astype(jnp.int4),
    "complex": jnp.array([1 + 2j, 0]),
}


def sparse(sparsity, weights=WEIGHTS):
    """Return weights of which the first part is 0."""
    keep = np.arange(weights.size) >= round(sparsity * weights.size)
    return np.where(keep.reshape(weights.shape), weights, np.float32(0))


def same(one, other):
    """Assert that two trees are equal to the last bit, and of the same containers."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert trees.describe(one) == trees.describe(other)
    assert trees.fingerprint(one) == trees.fingerprint(other)


def saved(path, variables, about=None):
    """Return what comes back of a file, and its size."""
    size = compress.save(path, variables, about)
    assert size == path.stat().st_size
    return *compress.load(path), size


@pytest.mark.parametrize("name", PACKED)
def test_quantized_arrays_come_back_bit_by_bit(tmp_path, name):
    method = jax.jit(METHODS[name])
    params = {"dense": {"kernel": method(WEIGHTS)}, "half": method(sparse(0.5))}
    back, _, _ = saved(tmp_path / "a", {"params": params})
    same(back, {"params": params})
    assert isinstance(back["params"]["half"], quantize.Quantized)
    packed = compress.pack(params)
    same(compress.unpack(packed), params)
    codes = packed["dense"]["kernel"].arrays["data"]
    assert (codes.dtype, codes.size) == (np.uint8, -(-WEIGHTS.size * int(name[0]) // 8))


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.95, 1])
def test_pruned_arrays_take_a_bit_for_each_and_the_rest(tmp_path, sparsity):
    weights = jnp.asarray(sparse(sparsity))
    tree = {name: METHODS[name](weights) for name in FEW}
    tree |= {"plain": weights, "half": weights.astype(jnp.bfloat16)}
    back, _, _ = saved(tmp_path / "a", tree)
    same(back, tree)
    kept = max(int((weights != 0).sum()), 1)
    for name, leaf in compress.pack(tree).items():
        bits = {"plain": 32, "half": 16}.get(name) or int(name[0])
        found = trees.num_bytes(
            [leaf.arrays.get("mask", jnp.zeros(0)), leaf.arrays["data"]]
        )
        masked = weights.size // 8 + -(-kept * bits // 8)
        assert found == min(masked, weights.size * bits // 8)
    if sparsity == 1:
        assert not any(leaf.any() for leaf in quantize.dequantized(back).values())


def test_any_array_comes_back_bit_by_bit(tmp_path):
    back, _, _ = saved(tmp_path / "a", {"params": EDGES})
    same(back, {"params": EDGES})
    same(compress.unpack(compress.pack(EDGES)), EDGES)
    assert trees.num_bytes(compress.pack(EDGES["all zeros"])) == 9
    with jax.enable_x64(True):
        wide = {"a": jnp.array([1 / 3, 0.0]), "b": jnp.array(2**40 + 1)}
        back, _, _ = saved(tmp_path / "b", wide)
        same(back, wide)


def test_numpy_arrays_and_numbers_become_those_of_jax(tmp_path):
    given = {
        "a": np.arange(3.0),
        "b": np.int64(3),
        "c": 2.5,
        "d": True,
        "e": np.float16([1]),
    }
    back, _, _ = saved(tmp_path / "a", given)
    same(back, jax.tree.map(jnp.asarray, given))


def test_containers_come_back(tmp_path):
    given = {"params": {"a": jnp.ones(2), "b": {}}, "batch_stats": {}, "c": jnp.ones(1)}
    back, about, _ = saved(tmp_path / "a", given)
    same(back, given)
    assert about == {}
    assert saved(tmp_path / "a", {})[0] == {}
    frozen = core.freeze({"params": {"a": jnp.ones(2)}})
    same(saved(tmp_path / "a", frozen)[0], core.unfreeze(frozen))


@pytest.fixture(scope="module")
def student():
    model = models.MLP(classes=3, width=12, depth=1)
    network = networks.from_linen(model)
    variables = network.init(jax.random.key(0), jnp.ones((1, 5)))
    params = prune.apply(
        variables["params"], prune.unstructured(variables["params"], 0.5)
    )
    small = quantize.quantized(params, METHODS["4-symmetric-channel-min_max"])
    return network, {"params": small}


def test_a_network_says_the_same_after_loading(tmp_path, student):
    network, variables = student
    images = jax.random.normal(jax.random.key(1), (7, 5))

    @jax.jit
    def say(variables, images):
        return network.apply(quantize.dequantized(variables), images)[0].logits

    back, _, _ = saved(tmp_path / "a", variables)
    expected = say(variables, images)
    np.testing.assert_array_equal(say(back, images), expected)
    # a program can hold what is packed
    packed = compress.pack(variables)
    held = jax.jit(lambda packed, images: say(compress.unpack(packed), images))
    np.testing.assert_array_equal(held(packed, images), expected)


def test_files_are_small(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    four = functools.partial(quantize.uniform, bits=4)
    *_, size = saved(tmp_path / "a", {"kernel": four(kernel)})
    assert size <= 256 * 256 / 2 + 2048
    mask = prune.unstructured({"kernel": kernel}, 0.9)
    pruned = quantize.quantized(prune.apply({"kernel": kernel}, mask), four)
    *_, size = saved(tmp_path / "b", pruned)
    assert size <= 256 * 256 / 8 + 0.1 * 256 * 256 / 2 + 2560


def test_other_programs_read_the_arrays_by_their_paths(tmp_path):
    given = {"params": {"dense": {"kernel": WEIGHTS, "bias": np.arange(3)}}}
    compress.save(tmp_path / "a", given)
    read = safetensors.numpy.load_file(tmp_path / "a")
    assert sorted(read) == ["params/dense/bias", "params/dense/kernel"]
    np.testing.assert_array_equal(read["params/dense/kernel"], WEIGHTS)


def test_what_is_told_about_them_comes_back(tmp_path):
    about = {"data": "digits", "bits": [4, None], "scores": {9: 0.5, 10: float("inf")}}
    _, back, _ = saved(tmp_path / "a", {"a": jnp.ones(1)}, about)
    assert back == {**about, "scores": {"9": 0.5, "10": float("inf")}}
    numbers = {"accuracy": jnp.float32(0.5), "mean": np.ones(2)}
    _, back, _ = saved(tmp_path / "a", {"a": jnp.ones(1)}, numbers)
    assert back == {"accuracy": 0.5, "mean": [1.0, 1.0]}
    with pytest.raises(
        ValueError, match=r"about must be JSON values or arrays: .*object"
    ):
        compress.save(tmp_path / "a", {"a": jnp.ones(1)}, {"key": object()})


@pytest.fixture(scope="module")
def content(tmp_path_factory, student):
    path = tmp_path_factory.mktemp("file") / "a"
    compress.save(path, {**student[1], "batch_stats": {}}, {"data": "digits"})
    return path.read_bytes()


def refused(path, why="is damaged: "):
    with pytest.raises(compress.Damaged, match=why) as error:
        compress.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("bit", [1, 0x20, 0x80])
def test_every_changed_byte_is_noticed(tmp_path, content, bit):
    path = tmp_path / "a.safetensors"
    for place in range({1: 0, 0x20: 3, 0x80: 5}[bit], len(content), 7):
        changed = bytearray(content)
        changed[place] ^= bit
        path.write_bytes(changed)
        refused(path)


def test_a_part_of_a_file_and_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    for length in [0, 1, 8, 40, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path, "cannot be read as compressed variables")
    path.write_bytes(content + b"0")
    refused(path)
    safetensors.numpy.save_file({"a": WEIGHTS}, path)
    refused(path, "its format is None, not kdjax compressed")
    safetensors.numpy.save_file({"a": WEIGHTS}, path, {"format": "pt"})
    refused(path, "its format is pt")
    with path.open("wb") as file:
        np.savez(file, WEIGHTS)
    refused(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        compress.load(tmp_path / "missing")


def test_a_full_disk_leaves_the_old_file(small_disk):
    path = small_disk / "a"
    old = {"a": jnp.ones(3)}
    compress.save(path, old)
    large = {"a": np.random.default_rng(0).normal(size=200_000).astype(np.float32)}
    with pytest.raises(OSError, match="space"):
        compress.save(path, large)
    same(compress.load(path)[0], old)
    assert os.listdir(small_disk) == ["a"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"params": {"layers": [jnp.ones(2)]}}, "'params/layers' holds list"),
        ({"params": {"pair": (jnp.ones(2),)}}, "'params/pair' holds tuple"),
        ({"params": {"none": None}}, "'params/none' holds NoneType"),
        ({"params": {"name": "text"}}, "'params/name' holds str"),
        ({"params": {0: jnp.ones(2)}}, "0 is no name without"),
        ({"params": {"a/b": jnp.ones(2)}}, "'a/b' is no name without '/' and ':'"),
        ({"params": {"a:b": jnp.ones(2)}}, "'a:b' is no name without"),
        ([jnp.ones(2)], "these are list"),
        (
            {"__metadata__": jnp.ones(2)},
            "'__metadata__' is reserved by the file format",
        ),
    ],
)
def test_what_could_not_come_back_is_refused(tmp_path, variables, message):
    with pytest.raises(ValueError, match=rf"must be nested dicts.* {message}"):
        compress.save(tmp_path / "a", variables)
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such folder: '.*/missing'"):
        compress.save(tmp_path / "missing" / "a", {"a": jnp.ones(1)})


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for use in (lambda p: compress.save(p, {"a": jnp.ones(1)}), compress.load):
        with pytest.raises(ImportError, match=r"pip install 'kdjax\[compress\]'"):
            use(tmp_path / "a")


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_those_of_numpy(bits):
    for count, numpy in ((0, np), (1, np), (7, np), (8, np), (13, np), (13, jnp)):
        codes = np.random.default_rng(count).integers(0, 2**bits, count)
        each = np.unpackbits(codes.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
        packed = _pack.to_bits(numpy.asarray(codes, np.uint8), bits)
        np.testing.assert_array_equal(packed, np.packbits(each))
        found = _pack.from_bits(packed, bits, count)
        assert found.dtype == jnp.uint8
        assert isinstance(found, np.ndarray) == (numpy is np)
        np.testing.assert_array_equal(found, codes)
        more = np.asarray(_pack.from_bits(packed, bits))
        np.testing.assert_array_equal(more[:count], codes)
        assert not more[count:].any()
