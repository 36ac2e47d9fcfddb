"""Problems: how a network is measured, and beside whom."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _problem
from experiments._fit import Fit
from kdjax import data, networks


@pytest.fixture(scope="module")
def problem():
    return _problem.of(data.load("digits"))


def linear(seen):
    def apply(kernel, images):
        jax.debug.callback(seen.append, len(images))
        return images.reshape(len(images), -1) @ kernel

    return networks.from_function(apply)


def test_a_judge_is_asked_once_about_a_split(problem):
    rng = np.random.default_rng(0)
    ours, theirs = (jnp.asarray(rng.normal(size=(64, 10)), jnp.float32) for _ in "12")
    asked = []
    judge = (linear(asked), {"params": theirs})
    network = linear([])
    for _ in range(2):
        found = problem.figures(network, {"params": ours}, "test", judge)
    jax.effects_barrier()
    assert len(asked) == 1
    images = problem.transform(None, {"image": jnp.asarray(problem.test["image"])})
    rows = np.asarray(images["image"], np.float64).reshape(-1, 64)
    same = (rows @ ours).argmax(1) == (rows @ theirs).argmax(1)
    assert found["agreement"] == pytest.approx(same.mean())
    other = (linear([]), {"params": ours})
    assert problem.figures(network, {"params": ours}, "test", other)["agreement"] == 1
    assert "agreement" not in problem.figures(network, {"params": ours}, "test")


def test_nobody_is_asked_where_answers_do_not_count(problem):
    silent = dataclasses.replace(problem, answer=None)
    asked = []
    judge = (linear(asked), {"params": jnp.ones((64, 10))})
    found = silent.figures(linear([]), {"params": jnp.ones((64, 10))}, "test", judge)
    jax.effects_barrier()
    assert "agreement" not in found
    assert not asked


@pytest.mark.parametrize(
    ("steps", "calls", "expected"),
    [(500, 100, 100), (1500, 25, 150), (20, 20, 20), (2000, 100, 200), (40, 1, 25)],
)
def test_validation_is_looked_at_after_whole_calls(steps, calls, expected):
    fit = SimpleNamespace(recipe=SimpleNamespace(steps=steps), calls=calls)
    assert Fit.__dict__["_interval"].func(fit) == expected
