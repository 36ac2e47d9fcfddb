"""Divergences under any mask and any extreme values that hypothesis finds."""

import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.losses.programs import losses

SHAPE = (2, 4)  # one, so that little is compiled
VALUES = [0.0, 1.0, -1.0, 1e-30, 1e4, -1e4, 3e38, -3e38, -np.inf]
NUMBERS = st.sampled_from(VALUES) | st.floats(-100, 100, width=32)
DIVERGENCES = {
    "soft_target_kl": {},
    "jensen_shannon": {"beta": 0.0},
    "skew_reverse_kl": {"skew": 0.1},
    "total_variation": {},
}


@functools.cache
def _program(name):
    def loss(student, teacher, hyper, where):
        out = getattr(losses, name)(student, teacher, where=where, **hyper)
        return out.sum(), out

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@st.composite
def inputs(draw):
    student, teacher = (
        draw(arrays.arrays(np.float32, SHAPE, elements=NUMBERS)) for _ in range(2)
    )
    return student, teacher, draw(arrays.arrays(bool, SHAPE))


@pytest.mark.parametrize("name", DIVERGENCES)
@hypothesis.given(inputs(), st.floats(0.0, 1.0, width=32), st.floats(0.5, 50, width=32))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_finite_nonnegative_and_masked(name, arrays, share, temperature):
    student, teacher, where = arrays
    hyper = {"temperature": np.float32(temperature)}
    hyper |= {key: np.float32(share) for key in DIVERGENCES[name]}
    (_, values), gradients = _program(name)(student, teacher, hyper, where)
    assert np.all(np.isfinite(values))
    assert np.all(np.asarray(values) >= 0)
    assert np.all(np.asarray(values)[where.sum(-1) <= 1] == 0)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.all(np.asarray(gradient)[~where] == 0)
    (_, equal), _ = _program(name)(student, student, hyper, where)
    np.testing.assert_allclose(equal, 0.0, atol=1e-9)
