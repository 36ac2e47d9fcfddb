"""Students of a teacher in any field: images are one of many."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from flax import linen as nn

from experiments import _teacher
from experiments._config import Budget
from experiments._fit import Fit
from experiments._kinds import Kind, Kinds, chance, what_gain_is
from experiments._model import network
from experiments._problem import Problem
from experiments._recipe import Learner
from experiments._workdir import Run
from kdjax import checks, report
from kdjax.base import Network, Variables
from kdjax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Config(Budget):
    """Data and budgets: students and a teacher."""

    teacher_steps: int = 1000
    """Training steps of the teacher."""
    teacher_learning_rate: float = 1e-3
    """Peak learning rate of the teacher."""

    def checked(self) -> Self:
        """Return it.

        Raises:
          ValueError: for a number that cannot be.
        """
        for name in ("teacher_steps", "teacher_learning_rate"):
            checks.positive("config", **{name: getattr(self, name)})
        return super().checked()


class Field(Kinds):
    """A problem of any field and its teacher, ready for students.

    Args:
      run: the run.
      config: its config.
      problem: its data, and how answers to it are measured.
      kinds: how many kinds of students will be trained for `config.steps`.
      longer: for how many steps each of the others will be.
      steps_per_call: training steps in one compiled call; many for small networks.
    """

    config: Config

    def __init__(
        self,
        run: Run,
        config: Config,
        problem: Problem,
        kinds: int,
        longer: Sequence[int] = (),
        steps_per_call: int = 1,
    ) -> None:
        """Train nothing yet."""
        each = len(config.seed_list) * len(config.learning_rates)
        others = config.teacher_steps + each * sum(longer)
        super().__init__(run, config, problem, kinds, others)
        self.steps_per_call = steps_per_call
        self.teacher: tuple[Network, Variables] | None = None

    def learner(self, module: nn.Module, **settings: Any) -> Learner:
        """Return a module as what is trained, measured and used."""
        alone = network(module)
        return Learner(alone, alone, steps_per_call=self.steps_per_call, **settings)

    def teach(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        augment: tuple[str, ...] = (),
        about: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Train the teacher, or reuse an earlier run's: the table's first row.

        Args:
          module: the teacher.
          objective: what it is trained on.
          augment: random changes of its inputs, by name.
          about: what it depends on beside these, as JSON values.
          **settings: further ones of its `Learner`.
        """
        config, learner = self.config, self.learner(module, **settings)
        recipe = config.recipe(config.teacher_steps)
        recipe = dataclasses.replace(recipe, augment=augment)
        fit = Fit(self.run, self.problem, learner, objective, recipe)
        about = {"network": repr(module), **(about or {})}
        kind = type(module).__name__.lower()
        rate = config.teacher_learning_rate
        found = _teacher.kept(fit, about, kind, seed=0, rate=rate)
        self.run.pin("teacher", found.row.seeds[0]["sha256"])
        self.teacher = self.judge = found.frozen
        self.references.append((found.row, fit.exported))

    def students(
        self, name: str, learner: Learner | nn.Module, objective: Objective
    ) -> Kind:
        """Train one kind of students beside the teacher.

        Args:
          name: what the table calls them.
          learner: what is trained, or the module of the student.
          objective: what they are trained on.
        """
        if isinstance(learner, nn.Module):
            learner = self.learner(learner)
        return self.train(name, objective, learner, teacher=self.teacher)

    def table(
        self,
        question: str,
        baseline: str,
        columns: tuple[str, ...],
        *notes: str,
        pairs: Sequence[tuple[str, str]] | None = None,
    ) -> report.Result:
        """Return the table of all rows, with what some gain over others.

        Args:
          question: the title's first words.
          baseline: the row that the column "gain" is measured from.
          columns: figures by name; gains are of the problem's.
          *notes: what else the reader must know.
          pairs: `(better, than)` rows that are compared below the table; by default all
            students with the baseline.
        """
        rows = self.measured()
        named = {row.name: row for row in rows}
        students = list(named)[len(self.references) :]
        if pairs is None:
            pairs = [(name, baseline) for name in students if name != baseline]
        figure = self.problem.figure
        gains = [report.paired_gain(named[a], named[b], figure) for a, b in pairs]
        rates = self._rates([named[name] for name in students])
        more = [*self._budgets(), *chance(len(pairs))]
        if "gain" in columns:
            more.append(what_gain_is(baseline))
        return report.Result(
            self._title(question),
            rows,
            gains,
            (*notes, *more, *rates, *self.notes, self._about_data()),
            columns,
            baseline=baseline,
            figure=figure,
        )

    def _budgets(self) -> list[str]:
        config = self.config
        return [
            f"Students: {config.steps:,} steps of {config.batch_size}; the teacher: "
            f"{config.teacher_steps:,} at a rate of {config.teacher_learning_rate:g}."
        ]
