import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import trees
from kdjax.base import Outputs

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": [jnp.ones(2), jnp.zeros(())]}}


def test_unstack_inverts_stack():
    others = [jax.tree.map(lambda x, n=n: x + n, TREE) for n in range(3)]
    stacked = trees.stack(others)
    assert stacked["a"].shape == (3, 2, 3)
    assert stacked["b"]["c"][1].shape == (3,)
    for before, after in zip(others, trees.unstack(stacked), strict=True):
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_stack_takes_any_iterable_numpy_arrays_and_keys():
    assert trees.stack(iter([np.ones(2), np.zeros(2)])).shape == (2, 2)
    keys = [jax.random.key(0), jax.random.key(1)]
    assert trees.stack(keys).shape == (2,)


def test_stack_works_under_jit():
    assert jax.jit(lambda a, b: trees.stack([a, b]))(TREE, TREE)["a"].shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([], "at least one tree"),
        ([{"a": jnp.ones(2)}, {"b": jnp.ones(2)}], "tree 1 has another structure"),
        ([{"a": jnp.ones(2)}, {"a": None}], "tree 1 has another structure"),
        (
            [{"a": {"b": jnp.ones(2)}}, {"a": {"b": jnp.ones(3)}}],
            r"a/b .*\(2,\), \(3,\)",
        ),
    ],
)
def test_stack_refuses_what_differs(given, match):
    with pytest.raises(ValueError, match=match):
        trees.stack(given)


@pytest.mark.parametrize(
    "tree", [{"a": jnp.ones(2), "b": jnp.ones(3)}, {"a": jnp.ones(())}]
)
def test_unstack_refuses_trees_that_are_not_stacked(tree):
    with pytest.raises(ValueError, match="must share a leading axis"):
        trees.unstack(tree)


def test_select_by_path_and_by_leaf():
    assert list(trees.select(TREE, lambda path, _: path.startswith("b"))) == [
        "b/c/0",
        "b/c/1",
    ]
    assert list(trees.select(TREE, lambda _, leaf: leaf.ndim == 2)) == ["a"]
    outputs = Outputs(jnp.ones(1), {"hid": jnp.ones(1)})
    assert list(trees.select(outputs, lambda *_: True)) == ["logits", "features/hid"]
    assert trees.select({}, lambda *_: True) == {}


def test_count_and_bytes():
    tree = {
        "half": jnp.ones((2, 3), jnp.bfloat16),
        "double": np.ones(4),
        "shape": jax.ShapeDtypeStruct((5,), jnp.float32),
        "number": 1.0,
        "none": None,
        "empty": jnp.ones((0, 3)),
    }
    assert trees.count(tree) == 6 + 4 + 5 + 1
    assert trees.num_bytes(tree) == 6 * 2 + 4 * 8 + 5 * 4 + 4
    assert trees.count({}) == trees.num_bytes({}) == 0


def test_fingerprint_sees_every_change():
    x = np.arange(6, dtype=np.float32)
    bit = x.copy()
    bit.view(np.uint32)[3] ^= 1
    variants = [
        {"a": x},
        {"b": x},
        {"a": bit},
        {"a": x.reshape(2, 3)},
        {"a": x.reshape(3, 2)},
        {"a": x.reshape(2, 3).T},
        {"a": x.view(np.int32)},
        {"a": x[:5]},
        {"a": x, "b": x},
        {"a": {"a": x}},
        {"a": jnp.asarray(x, jnp.bfloat16)},
        {"a": jax.random.key(0)},
        {"a": jax.random.key(1)},
        {},
    ]
    assert len({trees.fingerprint(tree) for tree in variants}) == len(variants)


def test_fingerprint_is_of_values_alone():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = trees.fingerprint({"a": x, "b": [x]})
    assert trees.fingerprint({"b": [x.copy()], "a": jnp.asarray(x)}) == expected
    assert trees.fingerprint({"a": np.asfortranarray(x), "b": (x,)}) == expected


def test_fingerprint_is_the_same_in_another_process():
    code = "import numpy as np; from kdjax import trees; "
    code += "print(trees.fingerprint({'a': np.arange(3.0), 'b': {'c': 1}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == trees.fingerprint({"b": {"c": 1}, "a": np.arange(3.0)})


def test_fingerprint_refuses_what_has_no_bytes():
    with pytest.raises(ValueError, match="a/b is no array"):
        trees.fingerprint({"a": {"b": object()}})
