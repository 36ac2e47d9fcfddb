"""Students of many settings trained in one program, and their grid."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _plan, _teacher, _workdir
from experiments._config import Config
from experiments._fit import Fit
from experiments._problem import EVALUATION_BATCH
from experiments._recipe import alone
from kdjax import checkpoint, data, metrics, networks, plans, report, train, trees
from kdjax.base import Network, Outputs, Variables

Axes = Mapping[str, Sequence[float]]
MakeObjective = Callable[[Any], Any]


class Sweep(Fit):
    """Trains and measures students of many settings with one compiled program.

    A student has the parameters that it would have in a run of its own, on the batches
    of the first seed: seeds differ in first weights and dropout.

    Args:
      run: the run they belong to.
      config: its config; also with `members`: how they run.
      task: the data.
      teacher: of all.
      make_objective: `make_objective(setting)` of one student.
      axes: the settings, by name; students have all their combinations, with every
        learning rate and seed.
    """

    def __init__(
        self,
        run: _workdir.Run,
        config: Any,
        task: data.Task,
        teacher: _teacher.Teacher,
        make_objective: MakeObjective,
        axes: Axes,
    ) -> None:
        """Compile nothing yet."""
        axes = {**axes, "rate": config.learning_rates, "seed": config.seed_list}
        self.students = [
            dict(zip(axes, values, strict=True))
            for values in itertools.product(*axes.values())
        ]
        self._settings = {
            name: np.array([student[name] for student in self.students], np.float32)
            for name in axes
            if name != "seed"
        }
        self._plan = config.members
        learner = alone(config.student, task.num_classes)
        recipe = config.recipe(config.steps)
        super().__init__(
            *(run, task, learner, make_objective, recipe),
            teacher=teacher.frozen,
            teacher_dtype=config.teacher_dtype,
        )
        teach, self._teacher = teacher.frozen
        if run.shardings:
            self._teacher = run.shardings.place_teacher(self._teacher)
        self._evaluate = _evaluation(
            self.exported, teach, config.members, run.shardings
        )

    def _make_step(self, teach: Any, objective: Any) -> train.Step:
        if self.recipe.accumulate > 1:
            raise ValueError(
                "config: a sweep takes whole batches; leave --accumulate out"
            )
        network, settings = self._learner.network, self._settings
        if self.run.options.remat:
            network = networks.remat(network)
        return train.make_sweep_step(
            network.apply,
            teach,
            objective,
            self._make_tx,
            settings,
            plan=self._plan,
            shardings=self.run.shardings,
        )

    def _make_tx(self, setting: Any) -> Any:
        return self.recipe.transformation(setting["rate"])

    def trained(self) -> train.TrainState:
        """Train all students, or go on where their last checkpoint stands.

        Raises:
          Interrupted: if the process was asked to stop; the state is saved.
        """
        if self.run.asked_to_stop():
            raise _workdir.Interrupted
        if self.run.options.plan:
            _plan.note(self, f"{len(self.students)} students")
            self.run.planned()
        state = self._start_all()
        if self.run.shardings:
            state = self.run.shardings.place(state)
        place = self.run.directory / "checkpoints" / "sweep"
        saving = checkpoint.Checkpoints(place, best="score")
        with self.run.finishing_steps(), saving as kept:
            seed = self.students[0]["seed"]
            done = self._train("sweep", kept, state, self.frozen(0), seed)
        return trees.to_host(done) if self.run.shardings else done

    def _start_all(self) -> train.TrainState:
        keys = [jax.random.key(student["seed"]) for student in self.students]
        return train.init_sweep(
            self._learner.network,
            self._make_tx,
            self._settings,
            jnp.stack(keys),
            self.example,
        )

    def abstract_state(self) -> train.TrainState:
        """Return shapes and dtypes of what training changes."""
        return jax.eval_shape(self._start_all)

    def measure(self, variables: Variables, split: str) -> dict[str, Any]:
        """Return accuracy, calibration and so on over a split, `[students]` each."""
        arrays = getattr(self.task, split)
        size = min(EVALUATION_BATCH, len(arrays["label"]))
        shardings = self.run.shardings
        batches = data.epoch(
            *(arrays, size, data.pipeline(self.task)),
            sharding=shardings.batch if shardings else None,
        )
        variables = shardings.place(variables) if shardings else variables
        measured = self._evaluate(variables, batches, self._teacher)
        gaps = measured.pop("calibration_gap")
        errors = [metrics.calibration_error(gap) for gap in gaps]
        return {**measured, "calibration_error": np.array(errors)}

    def _log(self, name: str, step: int, state: Any, seen: train.Metrics) -> float:
        accuracy = self.measure(state.variables, "validation")["accuracy"]
        shown = {"loss": seen["loss"].mean(0), "validation_accuracy": accuracy}
        line = {
            f"{label(student)}/{figure}": float(values[number])
            for number, student in enumerate(self.students)
            for figure, values in shown.items()
        }
        self.run.log.write(name, step, line)
        return float(accuracy.mean())


def label(student: Mapping[str, Any]) -> str:
    """Return what a student is called in logs and results."""
    return ",".join(f"{name}={value:g}" for name, value in student.items())


def _evaluation(
    student: Network, teacher: Network, plan: plans.Plan, shardings: Any
) -> Any:
    """Return what measures all students beside their teacher in one program."""

    def apply(variables: Variables, inputs: Any) -> tuple[Outputs, Variables]:
        def one(variables: Variables) -> Outputs:
            return student.apply(variables, inputs)[0]

        return plans.over(one, plan)(variables), variables

    def measure(outputs: Outputs, teacher: Any, batch: Any) -> dict[str, Any]:
        def one(outputs: Outputs) -> dict[str, Any]:
            return metrics.classification(outputs, teacher, batch)

        return jax.vmap(one, out_axes=1)(outputs)  # one row for each example

    return train.make_eval(
        apply, measure, teacher_apply=teacher.apply, shardings=shardings
    )


def run(
    run: _workdir.Run, config: Any, make_objective: MakeObjective, axes: Axes
) -> report.Grid:
    """Train a teacher and students of all settings; return their grid.

    Args:
      run: the run.
      config: its config.
      make_objective: `make_objective(setting)` of one student.
      axes: two settings, by name.
    """
    task = config.load()
    run.pin("data", task.fingerprint)
    run.expect(config.steps + (0 if config.teacher_from else config.teacher_steps))
    teacher = _teacher.of(run, config, task)
    run.pin("teacher", teacher.row.seeds[0]["sha256"])
    sweep = Sweep(run, config, task, teacher, make_objective, axes)
    state = sweep.trained()
    return _grid(sweep, config, teacher, state, tuple(axes))


def _figures(sweep: Sweep, state: train.TrainState) -> list[dict[str, Any]]:
    """Return what was measured of each student, beside its settings."""
    validation = sweep.measure(state.variables, "validation")["accuracy"]
    test = sweep.measure(state.variables, "test")
    return [
        {
            **student,
            "network": label(student),
            "sha256": trees.fingerprint(params),
            "validation_accuracy": float(validation[number]),
            **{figure: float(values[number]) for figure, values in test.items()},
        }
        for number, (student, params) in enumerate(
            zip(sweep.students, trees.unstack(state.params), strict=True)
        )
    ]


def _row(figures: list[dict[str, Any]], names: Sequence[str], cost: Any) -> report.Row:
    """Return the row of one setting: its students with the best learning rate."""
    by_rate = itertools.groupby(figures, lambda student: student["rate"])
    tried = {rate: list(students) for rate, students in by_rate}

    def validation(rate: float) -> float:
        return float(np.mean([x["validation_accuracy"] for x in tried[rate]]))

    rate = max(tried, key=validation)
    place = {name: figures[0][name] for name in names}
    settings = {
        **place,
        "learning_rate": rate,
        "validation_accuracy": validation(rate),
        "tried": {f"{one:g}": validation(one) for one in tried},
    }
    name = ", ".join(f"{name} {value:g}" for name, value in place.items())
    return report.Row(name, tried[rate], cost, settings)


def _grid(
    sweep: Sweep,
    config: Config,
    teacher: _teacher.Teacher,
    state: train.TrainState,
    names: tuple[str, str],
) -> report.Grid:
    cost = metrics.size(trees.unstack(state.variables)[0])
    cells = itertools.groupby(
        _figures(sweep, state), lambda student: [student[name] for name in names]
    )
    rows = [_row(list(figures), names, cost) for _, figures in cells]
    seeds = len(config.seed_list)
    over = f"mean ± std over {seeds} seeds" if seeds > 1 else "1 seed"
    both = f"{names[0].capitalize()} and {names[1]}"
    return report.Grid(
        f"{both} on {config.dataset}; test accuracy %, {over}",
        rows,
        notes=_notes(sweep, config, teacher, state, rows),
        down=names[0],
        across=names[1],
    )


def _notes(
    sweep: Sweep,
    config: Config,
    teacher: _teacher.Teacher,
    state: train.TrainState,
    rows: Sequence[report.Row],
) -> list[str]:
    rates = config.learning_rates
    chosen = Counter(row.settings["learning_rate"] for row in rows)
    rate = f"Learning rate {rates[0]:g}, for all."
    if len(rates) > 1:
        counts = [f"{one:g} ({chosen[one]} times)" for one in rates]
        rate = (
            "Learning rate, chosen on the validation split for each setting among "
            f"{', '.join(counts)}."
        )
    stuck = [
        f"{label(student)} {skipped} steps"
        for student, skipped in zip(sweep.students, state.skipped.tolist(), strict=True)
        if skipped
    ]
    accuracy = 100 * teacher.row.values("accuracy").mean()
    return [
        f"{len(sweep.students)} students in one program, {config.steps} steps of "
        f"{config.batch_size} each, on the same batches: seeds differ in first weights "
        f"and dropout. Parameters: {rows[0].cost['parameters']:,.0f}; the teacher's "
        f"{trees.count(teacher.variables['params']):,}, its test accuracy "
        f"{accuracy:.2f} %.",
        rate,
        *([f"Not finite, hence skipped: {', '.join(stuck)}."] if stuck else []),
        f"{sweep.task.name}: {sweep.task.splits}",
    ]
