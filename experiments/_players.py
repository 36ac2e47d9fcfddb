"""Players of several games in one table: teachers and their students."""

import bisect
import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
from flax import linen as nn
from scipy import special

from experiments import _policy
from experiments._dqn import Learning
from experiments._games import EPISODES, SEEDS
from experiments._kinds import Kinds, chance
from experiments._learned import learned
from experiments._model import network
from experiments._recipe import Learner
from experiments._workdir import Run, digest
from kdjax import models, report, trees
from kdjax.objectives import Objective

_CALL = 100  # training steps in one compiled call: those of small MLPs cost nothing
_WIDEST = 4096


def largest(
    make: Callable[[int], nn.Module], example: Any, parameters: float
) -> nn.Module:
    """Return the widest module with at most this many parameters.

    Raises:
      ValueError: if there is none.
    """

    def size(width: int) -> int:
        init = make(width).init
        return trees.count(jax.eval_shape(init, jax.random.key(0), example))

    width = bisect.bisect_right(range(1, _WIDEST), parameters, key=size)
    if width == 0:
        raise ValueError(
            f"config: with shrink, a student has at most {parameters:.0f} parameters, "
            f"and the smallest has {size(1)}; widen the teacher or shrink less"
        )
    return make(width)


class Games(Kinds):
    """Games, their teachers and students; each game is a part of the table.

    Args:
      run: the run.
      config: its config.

    Attributes:
      parts: as itself, of one game each, with rows of its own.
    """

    def __init__(self, run: Run, config: Any) -> None:
        """Train the teachers, or reuse an earlier run's, and let them play."""
        run.pin("episodes", digest([EPISODES, SEEDS]))
        self.teachers = [
            _policy.taught(run, config, name) for name in config.environments
        ]
        many, ratios = len(self.teachers), len(config.shrink)
        kinds = 3 * many * ratios + (ratios if many > 1 else 0)
        each = len(config.seed_list) * len(config.dqn.learning_rates)
        alone = config.dqn.rounds * each * many * ratios
        super().__init__(run, config, _policy.together(self.teachers), kinds, alone)
        self.parts = [self._part(one) for one in self.teachers]

    def _part(self, teacher: _policy.Taught) -> Self:
        part = copy.copy(self)
        part.teachers, part.problem = [teacher], teacher.problem()
        part.example = part.problem.example
        part.references, part._rows = [], []
        figures = part.tested(teacher.network, teacher.variables, "teacher")
        row = report.Row(f"{teacher.game.name} teacher", [figures], {})
        part.references.append((row, teacher.network))
        return part

    def _name(self, ratio: float, how: str) -> str:
        return f"{self.teachers[0].game.name} 1:{ratio:g} {how}"

    def _size(self) -> int:
        return min(trees.count(one.variables) for one in self.teachers)

    def _student(self, ratio: float) -> nn.Module:
        actions = self.teachers[0].game.actions
        make = functools.partial(models.MLP, actions)
        return largest(make, self.example, self._size() / ratio)

    def alone(self, ratio: float) -> None:
        """Add students that learn the game as the teacher did, from its rewards."""
        [teacher], config, name = self.teachers, self.config, self._name(ratio, "alone")
        learning = Learning(teacher.game, self._student(ratio), config.dqn)
        found = learned(self.run, name, learning, config.seed_list)
        values = list(found.returns.values())
        settings = {
            "dqn_learning_rate": found.rate,
            "validation_mean_return": sum(values) / len(values),
        }
        variables = found.networks.__getitem__
        self.given(name, learning.network, variables, settings)

    def students(self, ratio: float, how: str, objective: Objective) -> None:
        """Add students that learn from what the teacher showed."""
        alone = network(self._student(ratio))
        learner = Learner(alone, alone, steps_per_call=_CALL)
        self.train(self._name(ratio, how), objective, learner)

    def each(self) -> Iterator[tuple[Self, float]]:
        """Yield all parts, with every ratio of parameters."""
        return itertools.product(self.parts, self.config.shrink)

    def multitask(self, objective: Objective) -> None:
        """Add students that play all games, if there are several: rows in each part."""
        if len(self.parts) == 1:
            return
        actions = tuple(one.game.actions for one in self.teachers)
        make = functools.partial(models.MultiTask, actions)
        width = self.example[0].shape[1]
        for ratio in self.config.shrink:
            alone = network(largest(make, self.example, self._size() / ratio))
            learner = Learner(alone, alone, steps_per_call=_CALL)
            kind = self.train(f"multi-task 1:{ratio:g}", objective, learner)
            for number, part in enumerate(self.parts):
                name = part._name(ratio, "multi-task")
                part.given(name, _policy.seat(alone, number, width), kind.variables)

    def table(self, question: str) -> report.Result:
        """Return the table of all parts."""
        parts = [part.measured() for part in self.parts]
        rows = [_coloured(row) for part in parts for row in part]
        trained = [*rows, *(row for row, _ in self._rows)]
        gains = _gains(rows)
        notes = [
            *(_intervals(part) for part in parts),
            *chance(len(gains)),
            *self._budgets(),
            *self._rates(trained),
            *self.notes,
            self._about_data(),
        ]
        return report.Result(
            self._title(question),
            rows,
            gains,
            notes,
            ("mean_return", "agreement", "parameters", "flops"),
            baseline=rows[1].name,
            figure="mean_return",
        )

    def _budgets(self) -> list[str]:
        config, dqn = self.config, self.config.dqn
        rates = ", ".join(f"{rate:g}" for rate in dqn.learning_rates)
        said = [
            f"Teachers and students alone: DQN, {dqn.steps:,} steps in the environment "
            f"and {dqn.rounds - dqn.waits:,} gradient steps of {dqn.batch_size}, at "
            f"the best on validation of the rates {rates}; each is as it was when it "
            f"did best there, and of {config.tries} teachers the best one teaches.",
            f"Other students: {config.steps:,} gradient steps of {config.batch_size}, "
            "as they are at the end, and no steps in the environment. KL follows "
            f"Q-values divided by {config.temperature:g}, NLL actions, Q the Q-values.",
            "1:n has at most an nth of its teacher's parameters.",
        ]
        if len(self.parts) > 1:
            said.append(
                "Multi-task is one network for all games, KL, with at most an nth of "
                "the smallest teacher's parameters; its rate is chosen by the mean "
                "over games."
            )
        return said


def _coloured(row: report.Row) -> report.Row:
    """Return a row with the colour of its game in pictures."""
    family = row.name.split(" ")[0]
    return dataclasses.replace(row, settings={**row.settings, "family": family})


def _gains(rows: Sequence[report.Row]) -> list[report.Gain]:
    """What each kind gains over the student alone; games together over apart."""
    named = {row.name: row for row in rows}
    gains = []
    for name, row in named.items():
        start, _, how = name.rpartition(" ")
        than = named.get(f"{start} {'KL' if how == 'multi-task' else 'alone'}")
        if how not in ("teacher", "alone") and than:
            gains.append(report.paired_gain(row, than, "mean_return"))
    return gains


def _intervals(rows: Sequence[report.Row]) -> str:
    """Say how sure the mean returns of one game are."""
    teacher, *students = rows
    [figures] = teacher.seeds
    half = 1.96 * figures["return_deviation"] / math.sqrt(EPISODES)
    mean, said = figures["mean_return"], []
    ends = f"[{mean - half:.1f}, {mean + half:.1f}]"
    for row in students:
        values = row.values("mean_return")
        if len(values) > 1:
            error = values.std(ddof=1) / math.sqrt(len(values))
            half = special.stdtrit(len(values) - 1, 0.975) * error
            low, high = values.mean() - half, values.mean() + half
            said.append(f"{row.name.split(' ', 1)[1]} [{low:.1f}, {high:.1f}]")
    over = f"; over seeds: {', '.join(said)}" if said else ""
    return (
        f"95 % intervals of mean returns, {teacher.name} over {EPISODES} episodes: "
        f"{ends}{over}."
    )
