"""Terms, weights, schedules and masked means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import objectives


def value(term, step=0):
    return float(objectives.mean(*objectives.resolve({"x": term}, step)["x"]))


def test_masked_mean_is_the_mean_of_what_is_kept():
    values = jnp.array([1.0, 2.0, 100.0, 4.0])
    where = jnp.array([True, True, False, True])
    assert value(objectives.masked_mean(values, where)) == pytest.approx(7 / 3)
    assert value(objectives.masked_mean(values)) == pytest.approx(107 / 4)


def test_masked_mean_over_tokens_counts_tokens():
    values = jnp.arange(12.0).reshape(3, 4)
    rows = jnp.array([True, False, True])
    assert value(objectives.masked_mean(values, rows)) == pytest.approx(
        np.asarray(values)[[0, 2]].mean()
    )
    tokens = values % 2 == 0
    assert value(objectives.masked_mean(values, tokens)) == pytest.approx(5.0)


def test_what_is_masked_may_be_nan_and_gets_no_gradient():
    where = jnp.array([True, False])

    def loss(values):
        return objectives.mean(*objectives.masked_mean(values, where))

    values = jnp.array([3.0, jnp.nan])
    assert loss(values) == 3.0
    assert jax.grad(loss)(values).tolist() == [1.0, 0.0]


def test_an_empty_mask_gives_zero_and_a_zero_gradient():
    where = jnp.zeros(3, bool)

    def loss(values):
        return objectives.mean(*objectives.masked_mean(values, where))

    assert loss(jnp.ones(3)) == 0
    assert jax.grad(loss)(jnp.ones(3)).tolist() == [0, 0, 0]


def test_masks_must_have_the_leading_axes():
    with pytest.raises(ValueError, match=r"where \[4\], values \[3, 4\]"):
        objectives.masked_mean(jnp.ones((3, 4)), jnp.ones(4, bool))


def test_weights_scale_every_kind_of_term():
    scalar, pair = jnp.array(4.0), (jnp.array(6.0), jnp.array(3.0))
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    assert value(objectives.weighted(0.5, scalar)) == 2.0
    assert value(objectives.weighted(0.5, pair)) == 1.0
    assert value(objectives.weighted(jnp.array(0.5), pair)) == 1.0
    scheduled = objectives.weighted(schedule, pair)
    assert [value(scheduled, step) for step in (0, 5, 10)] == [2.0, 1.0, 0.0]
    assert value(objectives.weighted(0.5, scheduled), 5) == 0.5
    assert value(objectives.weighted(schedule, scheduled), 5) == 0.5


def test_schedules_follow_a_traced_step():
    schedule = optax.linear_schedule(1.0, 0.0, 4)

    @jax.jit
    def run(steps):
        def body(total, step):
            term = objectives.weighted(schedule, jnp.array(2.0))
            pair = objectives.resolve({"x": term}, step)["x"]
            return total + objectives.mean(*pair), None

        return jax.lax.scan(body, 0.0, steps)[0]

    assert run(jnp.arange(4)) == pytest.approx(2 * (1 + 0.75 + 0.5 + 0.25))


def test_objectives_compose_by_dict_union():
    one, other = {"a": jnp.array(1.0)}, {"b": (jnp.array(4.0), jnp.array(2.0))}
    resolved = objectives.resolve({**one, **other}, 0)
    assert sum(float(objectives.mean(*pair)) for pair in resolved.values()) == 3.0


def test_counts_get_no_gradient():
    def loss(x):
        pair = objectives.resolve({"x": (x, x)}, 0)["x"]
        return objectives.mean(*pair)

    assert jax.grad(loss)(2.0) == 0.5


@pytest.mark.parametrize("term", [jnp.ones(3), (jnp.ones(3), 3.0), (1.0, 2.0, 3.0)])
def test_terms_that_are_no_scalars_are_explained(term):
    with pytest.raises(ValueError, match=r"term 'soft' must be a scalar or a \(sum, c"):
        objectives.resolve({"soft": term}, 0)


def test_means_of_short_floats_are_taken_in_float32():
    many = jnp.ones(70_001, jnp.float16)
    total, count = objectives.masked_mean(many, jnp.ones(70_001, bool))
    assert (total.dtype, float(total), float(count)) == (jnp.float32, 70_001, 70_001)
    total, count = objectives.masked_mean(jnp.ones(1001, jnp.bfloat16))
    assert (float(total), float(count)) == (1001, 1001)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        pair = (jnp.array(1 / 3, jnp.float64), jnp.array(1.0, jnp.float64))
        resolved = objectives.resolve({"x": pair, "y": pair[0]}, 0)
        assert {part.dtype for part in resolved["x"]} == {jnp.dtype("float64")}
        assert float(resolved["y"][0]) == 1 / 3


def test_logged_figures_are_no_part_of_the_loss():
    x = jnp.array(3.0)
    terms = {"a": x, "b": objectives.weighted(0.5, objectives.logged((x, x)))}
    pairs = objectives.resolve(terms, 0)
    assert [name for name in pairs if objectives.in_loss(pairs[name])] == ["a"]
    assert objectives.mean(*pairs["b"]) == 0.5
    scheduled = objectives.weighted(lambda step: step, objectives.logged(x))
    pair = objectives.resolve({"a": x, "b": scheduled}, 2)["b"]
    assert not objectives.in_loss(pair)
    assert pair.total == 6
    with pytest.raises(ValueError, match=r"all terms are logged \(\['b'\]\)"):
        objectives.resolve({"b": objectives.logged(x)}, 0)
