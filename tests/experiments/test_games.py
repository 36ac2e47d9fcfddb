"""Games, and how networks learn them from their rewards."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _dqn, _games, _learned
from kdjax import models
from kdjax.base import Network, Outputs

CARTPOLE, CAR = map(_games.make, ("CartPole-v1", "MountainCar-v0"))


def player(weights):
    """Return a network that prefers the second action where a sum is positive."""

    def apply(variables, observation, **settings):
        score = observation @ jnp.array(weights)
        return Outputs(jnp.stack([jnp.zeros(len(score)), score], 1)), variables

    return Network(lambda key, inputs: {}, apply)


def test_who_can_balance_the_pole_earns_all_500():
    weights = np.array([0.2, 0.5, 20.0, 4.0]) / CARTPOLE.stretch
    earned = _games.returns(CARTPOLE, player(weights), {}, "validation")
    np.testing.assert_array_equal(earned, np.full(100, 500.0))


def test_who_pushes_one_way_drops_the_pole_and_no_split_has_anothers_episodes():
    same = player(np.zeros(4))
    earned, again, other = (
        _games.returns(CARTPOLE, same, {}, split)
        for split in ("validation", "validation", "test")
    )
    np.testing.assert_array_equal(earned, again)
    assert (earned != other).any()
    assert 8 <= earned.min() <= earned.mean() < 10 < earned.max() + 1


def test_steps_follow_the_equations_of_the_cart():
    """Barto, Sutton and Anderson 1983, by Euler's method, in NumPy."""
    keys = jax.random.split(jax.random.key(0), 2)
    observed, state = CARTPOLE.start(keys)
    assert (np.abs(observed) <= 0.05 * CARTPOLE.stretch).all()
    x, v, angle, turn = np.asarray(observed / CARTPOLE.stretch[None], np.float64).T
    action = jnp.array([0, 1])
    moved = jax.jit(CARTPOLE.step)(keys, state, action)
    force, sin, cos = 10.0 * np.array([-1, 1]), np.sin(angle), np.cos(angle)
    push = (force + 0.05 * turn**2 * sin) / 1.1
    spin = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    speed = push - 0.05 * spin * cos / 1.1
    wanted = [x + 0.02 * v, v + 0.02 * speed, angle + 0.02 * turn, turn + 0.02 * spin]
    np.testing.assert_allclose(
        moved.reached / CARTPOLE.stretch[None], np.stack(wanted, 1), atol=1e-6
    )
    np.testing.assert_array_equal(moved.observation, moved.reached)
    np.testing.assert_array_equal(moved.reward, [1, 1])
    assert not moved.done.any()


def test_small_bounds_are_stretched_to_one():
    np.testing.assert_allclose(CARTPOLE.stretch, [1, 1, 1 / 0.41887903, 1])
    np.testing.assert_allclose(CAR.stretch, [1, 1 / 0.07], rtol=1e-6)  # from -1.2
    assert (CARTPOLE.actions, CAR.actions) == (2, 3)


def test_every_environment_that_fits_can_be_played():
    with pytest.raises(ValueError, match="got 'Chess'; those that fit are") as caught:
        _games.make("Chess")
    names = str(caught.value).split("those that fit are ")[1].split(", ")
    assert {"CartPole-v1", "Acrobot-v1", "MountainCar-v0"} <= set(names)
    for name in names:
        game, keys = _games.make(name), jax.random.split(jax.random.key(0), 3)
        observed, state = jax.eval_shape(game.start, keys)
        moved = jax.eval_shape(game.step, keys, state, jnp.zeros(3, jnp.int32))
        assert observed.shape == moved.reached.shape == (3, len(game.stretch))
        assert moved.reward.dtype == moved.reached.dtype == jnp.float32


def test_without_gymnax_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[experiments\]'"):
        _games.make.__wrapped__("CartPole-v1")


def test_returns_of_several_steps_stop_where_an_episode_does():
    """Against a loop in NumPy, over a replay of episodes that end in both ways."""
    rng = np.random.default_rng(0)
    rounds, copies, lookahead = 12, 3, 4
    dqn = _dqn.DQN(1000, copies=copies, discount=0.9, lookahead=lookahead)
    learning = _dqn.Learning(CARTPOLE, models.MLP(2, 4), dqn)
    terminated = rng.random((rounds, copies)) < 0.15
    done = terminated | (rng.random((rounds, copies)) < 0.15)
    reward = rng.normal(size=(rounds, copies)).astype(np.float32)
    number = np.arange(rounds * copies, dtype=np.float32).reshape(rounds, copies, 1)
    replay = {
        "observation": number,
        "reached": number + 1000,
        "action": number[..., 0].astype(int) % 2,
        "reward": reward,
        "terminated": terminated,
        "done": done,
    }
    replay = jax.tree.map(jnp.asarray, replay)
    now = 9  # what is later has not happened yet
    batch = jax.jit(learning._drawn)(replay, now, jax.random.key(3))
    firsts = set()
    for row in range(dqn.batch_size):
        first, copy = divmod(int(batch["observation"][row, 0]), copies)
        total, last = 0.0, first
        for last in range(first, first + lookahead):
            total += 0.9 ** (last - first) * reward[last, copy]
            if done[last, copy]:
                break
        worth = 0.9 ** (last - first + 1) * (not terminated[last, copy])
        assert batch["total"][row] == pytest.approx(total, abs=1e-5)
        assert batch["worth"][row] == pytest.approx(worth, abs=1e-6)
        assert batch["reached"][row, 0] == 1000 + last * copies + copy
        assert batch["action"][row] == (first * copies + copy) % 2
        firsts.add((first, copy))
    assert max(first for first, _ in firsts) == now - lookahead + 1
    assert len(firsts) > 15


def test_the_one_network_chooses_and_the_other_one_judges():
    learning = _dqn.Learning(
        CARTPOLE, models.MLP(2, 4, depth=0), _dqn.DQN(1000, batch_size=5)
    )
    rng = np.random.default_rng(1)
    [online, target] = [
        {"head": {"kernel": rng.normal(size=(4, 2)), "bias": rng.normal(size=2)}}
        for _ in range(2)
    ]
    batch = {
        "observation": rng.normal(size=(5, 4)),
        "reached": rng.normal(size=(5, 4)),
        "action": rng.integers(0, 2, 5),
        "total": rng.normal(size=5),
        "worth": np.array([0, 0.9, 0.9, 0.9, 0]),
    }

    def q(params, x):
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    rows, chosen = np.arange(5), q(online, batch["reached"]).argmax(1)
    wanted = batch["total"] + batch["worth"] * q(target, batch["reached"])[rows, chosen]
    error = q(online, batch["observation"])[rows, batch["action"]] - wanted
    loss = learning._loss(*jax.tree.map(jnp.asarray, (online, target, batch)))
    assert float(loss) == pytest.approx(np.square(error).mean(), rel=1e-5)


def test_the_best_rate_is_chosen_over_seeds_and_each_seeds_best_is_kept():
    grid = [(0.1, 5), (0.1, 6), (0.2, 5), (0.2, 6)]
    best = {"params": {"w": np.arange(4.0)}, "returns": np.array([9.0, 1, 4, 8])}
    found = _learned._chosen(best, grid)
    assert (found.rate, found.returns) == (0.2, {5: 4.0, 6: 8.0})
    assert found.networks == {5: {"params": {"w": 2}}, 6: {"params": {"w": 3}}}
    assert found.best == {"params": {"w": 3}}
