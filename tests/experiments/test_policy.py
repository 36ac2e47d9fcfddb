"""Teachers that play games, and students that learn from them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _dqn, _games, _players, _policy, policy
from experiments._model import network
from experiments._options import Options
from experiments._workdir import Interrupted, Run
from kdjax import models, trees
from kdjax.models.policy import ABSENT

CARTPOLE, CAR = map(_games.make, policy.SMOKE.environments)
HOW = ("alone", "KL", "NLL", "Q", "multi-task")


def at(directory, **changes):
    return dataclasses.replace(policy.SMOKE, run=Options(workdir=directory), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy") / "run"
    return directory, policy.main(at(directory))


def shown(game, seed):
    """Return a teacher of random weights, and what it showed."""
    module = network(models.Dueling(game.actions, 16))
    variables = jax.jit(module.init)(jax.random.key(seed), game.example)
    rows = np.random.default_rng(seed).normal(size=(6, len(game.stretch)))
    rows = rows.astype(np.float32)
    q = np.asarray(module.apply(variables, rows)[0].logits)
    said = {"observation": rows, "q": q, "action": q.argmax(1)}
    splits = dict.fromkeys(("train", "validation", "test"), said)
    return _policy.Taught(game, module, variables, splits)


def test_rows_of_several_games_are_padded_and_told_apart():
    one, other = shown(CARTPOLE, 0), shown(CAR, 1)
    problem = _policy.together([one, other])
    rows = problem.train
    np.testing.assert_array_equal(rows["game"], [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(rows["observation"][6:, 2:], 0)
    np.testing.assert_array_equal(rows["q"][:6, 2:], ABSENT)
    np.testing.assert_array_equal(rows["q"][:6, :2], one.shown["train"]["q"])
    np.testing.assert_array_equal(rows["q"][6:], other.shown["train"]["q"])

    both = network(models.MultiTask((2, 3), 5))
    variables = jax.jit(both.init)(jax.random.key(0), problem.example)
    said = both.apply(variables, problem.inputs(rows))[0].logits
    for number, teacher in enumerate((one, other)):
        seated = _policy.seat(both, number, 4)
        observed = teacher.shown["train"]["observation"]
        alone = seated.apply(variables, observed)[0].logits
        np.testing.assert_allclose(alone, said[6 * number :][:6], atol=1e-6)
        began = jax.eval_shape(seated.init, jax.random.key(0), teacher.game.example)
        assert trees.describe(began) == trees.describe(variables)


def test_students_are_as_wide_as_their_parameters_allow():
    row = jnp.ones((1, 4))

    def size(width):
        model = models.MLP(2, width)
        return trees.count(
            jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 4)))
        )

    found = _players.largest(lambda width: models.MLP(2, width), row, 500)
    assert size(found.width) <= 500 < size(found.width + 1)
    with pytest.raises(ValueError, match="at most 5 parameters, and the smallest has"):
        _players.largest(lambda width: models.MLP(2, width), row, 5)


def test_the_table_has_all_rows_of_all_games(finished):
    _, result = finished
    names = [
        f"{game} {what}"
        for game in policy.SMOKE.environments
        for what in ("teacher", *(f"1:4 {how}" for how in HOW))
    ]
    assert [row.name for row in result.rows] == names
    for row in result.rows:
        low, high = (1, 500) if row.name.startswith("CartPole") else (-200, 0)
        assert all(low <= value <= high for value in row.values("mean_return"))
        assert all(0 <= value <= 1 for value in row.values("agreement"))
    teachers = [row for row in result.rows if row.name.endswith("teacher")]
    assert all(row.values("agreement") == 1 for row in teachers)
    for row in result.rows:
        teacher = next(t for t in teachers if t.name[:4] == row.name[:4])
        limit = teacher.cost["parameters"] / (1 if row is teacher else 4)
        assert row.cost["parameters"] <= limit
    assert len({row.cost["parameters"] for row in result.rows[1:5]}) == 1
    assert all(len(row.seeds) == 2 for row in result.rows if row not in teachers)


def test_gains_are_over_the_student_alone_or_over_one_game_alone(finished):
    _, result = finished
    pairs = [(gain.better, gain.than) for gain in result.gains]
    wanted = [
        (f"{game} 1:4 {how}", f"{game} 1:4 {'KL' if how == 'multi-task' else 'alone'}")
        for game in policy.SMOKE.environments
        for how in HOW[1:]
    ]
    assert pairs == wanted
    text = result.text(200)
    assert "95 % intervals of mean returns, CartPole-v1 teacher over 100 epis" in text
    assert "DQN, 160 steps in the environment" in text


def test_what_was_learned_is_reused_and_shows_the_same(finished, monkeypatch, capsys):
    directory, result = finished
    teachers, taught = [], _policy.taught

    def seen(*arguments):
        teachers.append(taught(*arguments))
        return teachers[-1]

    monkeypatch.setattr(_policy, "taught", seen)
    again = policy.main(at(directory))
    assert capsys.readouterr().out.count("reused from") == 4
    assert [row.seeds for row in again.rows] == [row.seeds for row in result.rows]

    for teacher in teachers:
        sizes = {name: len(part["q"]) for name, part in teacher.shown.items()}
        assert sizes == {"train": 400, "validation": 40, "test": 40}
        for part in teacher.shown.values():
            inputs = teacher.variables, part["observation"]
            said = teacher.network.apply(*inputs)[0].logits
            np.testing.assert_allclose(part["q"], said, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(part["action"], part["q"].argmax(1))
        starts = [part["observation"][:10] for part in teacher.shown.values()]
        assert len(np.unique(np.concatenate(starts), axis=0)) == 30


def test_a_signal_stops_between_two_looks_and_leaves_no_half_learned(
    tmp_path, monkeypatch
):
    earned = _dqn.Learning.earned

    def signalled(self, params):
        Run.stopping = True
        return earned(self, params)

    monkeypatch.setattr(_dqn.Learning, "earned", signalled)
    monkeypatch.setattr(Run, "stopping", False)
    with pytest.raises(Interrupted):
        policy.main(at(tmp_path, tries=1))
    assert not list(tmp_path.glob("teachers/*/variables"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--environments", "Pendulum-v1"), "got 'Pendulum-v1'; those that fit are"),
        (("--environments", "CartPole-v1", "CartPole-v1"), "all different"),
        (("--dqn.steps", "9"), "dqn: steps must be an integer >= 120, got 9"),
        (("--dqn.discount", "1.5"), "dqn: discount must be in [0, 1], got 1.5"),
        (("--dqn.learning-rates", "0"), "dqn: learning_rates must be > 0, got 0"),
        (("--shrink", "0"), "config: shrink must be > 0, got 0"),
        (("--temperature", "0"), "config: temperature must be > 0, got 0"),
        (("--tries", "0"), "config: tries must be an integer >= 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(command, flags, told):
    code, _, err = command(policy.main, policy.SMOKE, "--workdir", "run", *flags)
    assert code == 2
    assert told in err
    assert not Path("run").exists()
