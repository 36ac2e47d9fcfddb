import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import checks


def refused(match):
    return pytest.raises(ValueError, match=match)


def test_same_shape():
    checks.same_shape("f")
    checks.same_shape("f", a=jnp.ones((2, 3)), b=np.zeros((2, 3)))
    with refused(r"f: shapes must be equal, got a \[2, 3\], b \[3\]"):
        checks.same_shape("f", a=jnp.ones((2, 3)), b=jnp.ones(3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_floating_takes(dtype):
    checks.floating("f", a=jnp.ones(2, dtype))


@pytest.mark.parametrize(
    "array",
    [jnp.ones(2, jnp.int32), jnp.ones(2, bool), np.ones(2, complex), jax.random.key(0)],
)
def test_floating_refuses(array):
    with refused("f: a must be floating, got "):
        checks.floating("f", a=array)


def test_lists_and_numbers_are_no_arrays():
    with refused("f: a must be an array, got list"):
        checks.floating("f", a=[1.0])
    with refused("f: b must be an array, got float"):
        checks.same_shape("f", a=jnp.ones(2), b=1.0)
    with refused("f: labels must be an array, got list"):
        checks.labels("f", [0], jnp.ones((1, 2)))
    with refused("f: where must be an array, got bool"):
        checks.mask("f", True, (2,))


@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_logits_need_classes(shape):
    checks.logits("f", a=jnp.ones((2, 1)), b=jnp.ones((2, 1)))
    with refused("at least one class"):
        checks.logits("f", a=jnp.ones(shape))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int4])
def test_labels_are_integers(dtype):
    checks.labels("f", jnp.ones(2, dtype), jnp.ones((2, 3)))
    checks.labels("f", np.int64(1), np.ones(3))


@pytest.mark.parametrize(
    "labels", [jnp.ones(2), jnp.ones(2, bool), jax.random.split(jax.random.key(0), 2)]
)
def test_labels_refuse_what_is_no_integer(labels):
    with refused("f: labels must be integer class numbers, got "):
        checks.labels("f", labels, jnp.ones((2, 3)))


def test_labels_have_the_shape_without_classes():
    with refused(r"labels \[2, 3\], logits \[2, 3\]"):
        checks.labels("f", jnp.ones((2, 3), int), jnp.ones((2, 3)))


def test_mask_broadcasts_to_the_array():
    checks.mask("f", None, (2, 3))
    for shape in [(2, 3), (1, 3), (3,), (1,), ()]:
        checks.mask("f", jnp.ones(shape, bool), (2, 3))
    for shape in [(2,), (2, 1, 3), (1, 2, 3), (4, 3)]:
        with refused("f: where must broadcast"):
            checks.mask("f", jnp.ones(shape, bool), (2, 3))
    with refused("f: where must be boolean, got float32"):
        checks.mask("f", jnp.ones((2, 3)), (2, 3))


@pytest.mark.parametrize("value", [1, 1e-30, True, np.float32(2), 10**400])
def test_positive_takes(value):
    checks.positive("f", a=value)


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, float("nan"), float("inf"), np.float32(-2), np.int64(0)]
)
def test_positive_refuses(value):
    with refused("f: a must be > 0, got "):
        checks.positive("f", a=value)


def test_fraction():
    for value in (0, 1, 0.5, np.float32(1)):
        checks.fraction("f", a=value)
    for value in (-0.1, 1.1, float("nan"), np.float32(2)):
        with refused(r"f: a must be in \[0, 1\], got "):
            checks.fraction("f", a=value)


def test_integer():
    for value in (2, 8, np.int64(3)):
        checks.integer("f", 2, 8, a=value)
    checks.integer("f", 1, a=10**9)
    for value in (1, 9, 4.0, True, "4", None, np.float32(4)):
        with refused("f: a must be an integer from 2 to 8, got "):
            checks.integer("f", 2, 8, a=value)
    with refused("f: a must be an integer >= 1, got 0"):
        checks.integer("f", 1, a=0)


def test_traced_numbers_pass_and_known_ones_do_not():
    @jax.jit
    def f(x):
        checks.positive("f", x=x)
        checks.fraction("f", x=x)
        return x

    assert f(-2.0) == -2
    known = jnp.array(0.5)
    assert jax.jit(lambda x: (checks.positive("f", x=known), x)[1])(1.0) == 1
    for number in (-1.0, np.float32(-1), np.array(-1.0), jnp.array(-1.0)):
        with pytest.raises(ValueError, match=r"x must be > 0, got -1\.0"):
            checks.positive("f", x=number)
