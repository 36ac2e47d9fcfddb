"""Kinds of networks side by side: trained at equal budgets, measured, compared."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import _plan, _problem
from experiments._config import Budget
from experiments._fit import Examples, Fit, TaughtBy
from experiments._problem import Judge, Problem
from experiments._recipe import Learner, Recipe
from experiments._rows import forget, kept, place_of, tuned, with_costs
from experiments._workdir import Run, RunError
from kdjax import checkpoint, data, processes, report, teachers, trees
from kdjax.base import Network, Variables
from kdjax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of students, trained."""

    run: Run
    fit: Fit
    row: report.Row

    def variables(self, seed: int, steps: int | None = None) -> Variables:
        """Return one as it is used, or as it was after one of its `keep_steps`."""
        return self.fit.export(self.whole(seed, steps))

    def whole(self, seed: int, steps: int | None = None) -> Variables:
        """Return all variables that were trained for one, with parts and peers.

        Raises:
          RunError: if its checkpoint is damaged; it is trained again next time.
        """
        self.run.planned()
        steps = self.fit.recipe.steps if steps is None else steps
        rate = float(self.row.settings["learning_rate"])
        _, place = place_of(self.run, self.row.name, rate, seed)
        try:
            return teachers.from_checkpoints(place, steps)
        except (ValueError, checkpoint.CheckpointError) as error:
            forget(self.run, self.row.name)
            if processes.is_main():  # else it would go on at the end
                shutil.rmtree(place, ignore_errors=True)
            again = f"the same command trains {self.row.name!r} again"
            raise RunError(f"{error}\nWhat is lost is made again: {again}.") from error


class Kinds:
    """Students of one problem; every kind has the same data, seeds, rates and steps.

    Args:
      run: the run.
      config: its config.
      task: a task of images, or any problem.
      kinds: how many kinds of students will be trained.
      own_steps: training steps of other networks, for the progress bar.

    Attributes:
      notes: what else the reader of the table must know.
    """

    judge: Judge | None = None
    """Whom the table's agreement is with."""

    def __init__(
        self,
        run: Run,
        config: Budget,
        task: data.Task | Problem,
        kinds: int,
        own_steps: int = 0,
    ) -> None:
        """Train nothing yet."""
        self.run, self.config, self.problem = run, config, _problem.of(task)
        run.pin("data", self.problem.fingerprint)
        students = kinds * len(config.seed_list) * len(config.learning_rates)
        run.expect(own_steps + students * config.steps)
        self.example = self.problem.example
        self.notes: list[str] = []
        self.references: list[tuple[report.Row, Network]] = []
        self._rows: list[tuple[report.Row, Network]] = []

    def train(
        self,
        name: str,
        objective: Objective,
        learner: Learner,
        *,
        teacher: TaughtBy | None = None,
        examples: Examples | None = None,
        recipe: Recipe | None = None,
        keep_steps: Sequence[int] = (),
        family: str | None = None,
    ) -> Kind:
        """Train one kind of students, for all learning rates and seeds.

        Args:
          name: what the table calls them.
          objective: what they are trained on.
          learner: what is trained.
          teacher: a network and its variables, or a function of the seed to them.
          examples: arrays to train on, by seed; by default the task's.
          recipe: how, if not as all others.
          keep_steps: whose checkpoints are kept.
          family: of kinds that belong together in a picture.
        """
        config = self.config
        recipe = recipe or config.recipe(config.steps)
        fit = Fit(
            self.run,
            self.problem,
            learner,
            objective,
            recipe,
            teacher=teacher,
            judge=self.judge,
            examples=examples,
            keep_steps=keep_steps,
            teacher_dtype=config.teacher_dtype,
        )
        if self.run.options.plan:
            _plan.note(fit, name)
            return Kind(self.run, fit, report.Row(name, [], {}, {}))
        row = kept(self.run, name)
        if row:
            done = len(config.learning_rates) * len(config.seed_list)
            self.run.advance(done * recipe.steps, name)
        row = row or tuned(name, fit, config.learning_rates, config.seed_list)
        row = dataclasses.replace(row, settings={**row.settings, "family": family})
        self._rows.append((row, fit.exported))
        return Kind(self.run, fit, row)

    def given(
        self,
        name: str,
        network: Network,
        variables: Callable[[int], Variables],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a row of networks that are made of trained ones, seed by seed.

        Args:
          name: what the table calls them.
          network: any network.
          variables: of the network, by seed.
          settings: what was chosen for the row.
        """
        figures = [
            self.tested(network, variables(seed), seed)
            for seed in self.config.seed_list
        ]
        self._rows.append((report.Row(name, figures, {}, settings or {}), network))

    def tested(
        self, network: Network, variables: Variables, seed: Any
    ) -> dict[str, Any]:
        """Return the figures of one network on the test split."""
        if self.run.options.plan:
            return {"seed": seed}
        figures = self.problem.figures(
            network, variables, "test", self.judge, self.run.shardings
        )
        return {"seed": seed, **figures, "sha256": trees.fingerprint(variables)}

    def result(self, question: str, better: str, than: str) -> report.Result:
        """Return the table of two kinds of students, and what one gains."""
        rows = self.measured()
        named = {row.name: row for row in rows}
        gain = report.paired_gain(named[better], named[than], self.problem.figure)
        notes = (*self._rates(rows), *self.notes, self._about_data())
        columns = report.Result.columns
        if self.judge is None:
            columns = tuple(name for name in columns if name != "agreement")
        return report.Result(self._title(question), rows, [gain], notes, columns)

    def comparison(
        self, question: str, baseline: str, *, best_first: bool = True
    ) -> report.Result:
        """Return the table of many kinds of students, by accuracy or as they came."""
        rows = self.measured()
        first, students = rows[: len(self.references)], rows[len(self.references) :]
        if best_first:
            students.sort(key=lambda row: -row.values("accuracy").mean())
        notes = (
            what_gain_is(baseline),
            *chance(len(students) - 1),
            f"All students: {self.config.steps} steps of {self.config.batch_size}.",
            *self._rates(students),
            self._sizes(first, students, baseline),
            *self.notes,
            self._about_data(),
        )
        agreement = () if self.judge is None else ("agreement",)
        return report.Result(
            self._title(question),
            [*first, *students],
            notes=notes,
            columns=("accuracy", "gain", *agreement, "negative_log_likelihood"),
            baseline=baseline,
        )

    def measured(self) -> list[report.Row]:
        """Return all rows with their costs, references first."""
        self.run.planned()
        return with_costs([*self.references, *self._rows], self.example)

    def _rates(self, rows: Sequence[report.Row]) -> list[str]:
        rates = [f"{rate:g}" for rate in self.config.learning_rates]
        if len(rates) == 1:
            return [f"Learning rate {rates[0]}, for all students."]
        figure = self.problem.figure
        shown = report.FIGURES[figure]
        chosen = [
            f"{row.name} {row.settings['learning_rate']:g} "
            f"({shown.cell(row.settings[f'validation_{figure}'])} there)"
            for row in rows
            if "learning_rate" in row.settings
        ]
        return [
            f"Learning rate, chosen on the validation split among {', '.join(rates)}: "
            f"{', '.join(chosen)}."
        ]

    def _sizes(
        self,
        references: Sequence[report.Row],
        students: Sequence[report.Row],
        baseline: str,
    ) -> str:
        [alone] = [row for row in students if row.name == baseline]
        before = [f"{row.name} {row.cost['parameters']:,}" for row in references]
        larger = [
            f"{row.name} {row.cost['parameters']:,}"
            for row in students
            if row.cost["parameters"] != alone.cost["parameters"]
        ]
        sizes = [*before, f"students {alone.cost['parameters']:,}", *larger]
        return f"Parameters: {'; '.join(sizes)}."

    def _about_data(self) -> str:
        return f"{self.problem.name}: {self.problem.splits}"

    def _title(self, question: str) -> str:
        seeds = len(self.config.seed_list)
        over = f"mean ± std over {seeds} seeds" if seeds > 1 else "1 seed"
        return f"{question}; test split, {over}"


def what_gain_is(baseline: str) -> str:
    """Say what the column of gains shows."""
    return (
        f"gain: by how much a row is better than {baseline!r}, same seed, ± half its "
        "95 % interval."
    )


def chance(count: int) -> list[str]:
    """Say how many of so many intervals miss 0 where there is nothing."""
    if count < 2:
        return []
    missed = f"about {0.05 * count:.1f} miss 0 by chance alone"
    return [f"Of {count} intervals of 95 % {missed}."]
