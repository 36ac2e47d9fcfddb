"""What experiments on images share: their flags, data, teacher and students."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from experiments import _teacher
from experiments._fit import Fit, Recipe
from experiments._model import Model
from experiments._rows import kept, tuned, with_costs
from experiments._run import Options, Run, RunOptions
from kdjax import checks, data, networks, report
from kdjax.base import Network, Variables
from kdjax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks and budgets."""

    dataset: str = "digits"
    """"digits" (embedded), or any TFDS image classification set by name."""
    image_size: int | None = None
    """Resize images to this many pixels a side; for sets of mixed sizes."""
    seeds: tuple[int, ...] = (10,)
    """One number: how many (0, 1, ...); several: which."""
    steps: int = 1500
    """Training steps of each student; multiples of 25 run fastest."""
    batch_size: int = 64
    """Examples in a step."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Tried for each kind of student; the best on the validation split counts."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """AdamW, or SGD with momentum 0.9."""
    schedule: Literal["cosine", "stairs"] = "cosine"
    """How the rate falls: as a cosine to 0, or to a tenth at 5/8, 6/8, 7/8 of all."""
    weight_decay: float = 0.0
    """Weight decay of teacher and students."""
    augment: tuple[Literal["shift", "crop", "flip"], ...] = ()
    """Random changes of the training images; teacher and student see the same."""
    student: Model = Model()
    """The small network: by default an MLP of 16 hidden units; as a ResNet, resnet8."""
    teacher: Model = Model(dropout=0.3)
    """The large one: by default an MLP of 2 x 256 units; as a ResNet, resnet20."""
    teacher_steps: int = 1000
    """Training steps of the teacher."""
    teacher_learning_rate: float = 1e-3
    """Peak learning rate of the teacher."""
    teacher_from: Path | None = None
    """Use the teacher in this folder of an earlier run."""
    run: RunOptions = Options()

    def checked(self) -> Self:
        """Return it with all that was left open filled in.

        Raises:
          ValueError: for a number that cannot be.
        """
        for name in ("steps", "batch_size", "teacher_steps", "teacher_learning_rate"):
            checks.positive("config", **{name: getattr(self, name)})
        for rate in self.learning_rates:
            checks.positive("config", learning_rates=rate)
        for name, given in (("seeds", self.seed_list), ("rates", self.learning_rates)):
            if not given or len(set(given)) < len(given):
                raise ValueError(
                    f"config: {name} must be at least one and all different, got "
                    f"{list(given)}"
                )
        if not all(0 <= seed < 2**32 for seed in self.seed_list):
            raise ValueError(f"config: seeds must be in [0, 2**32), got {self.seeds}")
        checks.positive("config", max_skipped=self.run.max_skipped)
        return dataclasses.replace(
            self,
            student=self.student.sized(mlp=(16, 1), resnet=(1, 8)),
            teacher=self.teacher.sized(mlp=(256, 2), resnet=(1, 20)),
        )

    @property
    def seed_list(self) -> list[int]:
        """The seeds that are meant."""
        return list(range(*self.seeds)) if len(self.seeds) == 1 else list(self.seeds)

    def load(self) -> data.Task:
        """Return the data."""
        return data.load(
            self.dataset, data_dir=self.run.data_dir, image_size=self.image_size
        )

    def recipe(self, steps: int) -> Recipe:
        """Return how a network is trained for this many steps."""
        return Recipe(
            steps,
            self.batch_size,
            self.augment,
            self.optimizer,
            self.weight_decay,
            self.schedule,
        )


class Images:
    """An image task and its teacher, ready for students; trains the teacher if needed.

    Args:
      run: the run.
      config: its config.
      task: its data.
      kinds: how many kinds of students will be trained.
    """

    def __init__(self, run: Run, config: Config, task: data.Task, kinds: int) -> None:
        """Get the teacher."""
        self.run, self.config, self.task = run, config, task
        run.pin("data", task.fingerprint)
        students = kinds * len(config.seed_list) * len(config.learning_rates)
        own = 0 if config.teacher_from else config.teacher_steps
        run.expect(own + students * config.steps)
        self.teacher = self._teacher()
        run.pin("teacher", self.teacher.row.seeds[0]["sha256"])
        self.student = config.student.build(task.num_classes)
        self.notes: list[str] = []  # what else the reader of the table must know
        self._rows = [(self.teacher.row, self.teacher.fit.network)]

    def _teacher(self) -> _teacher.Teacher:
        config = self.config
        if config.teacher_from:
            return _teacher.load(self.run, self.task, config.teacher_from)
        return _teacher.get(
            self.run,
            self.task,
            config.teacher,
            config.recipe(config.teacher_steps),
            seed=0,
            rate=config.teacher_learning_rate,
        )

    def match(self, layers: tuple[str, ...], needs: str) -> Any:
        """Check that both networks have these features, and fitting: `networks.match`.

        Raises:
          ValueError: with all that does not fit, before anything is trained.
        """
        networks_and_inputs = (*self._networks, self.teacher.fit.example)
        return networks.match(*networks_and_inputs, layers, needs=needs)

    @property
    def _networks(self) -> tuple[Network, Network]:
        return self.student, self.teacher.fit.network

    def students(
        self,
        name: str,
        objective: Objective,
        *,
        parts: Mapping[str, Any] | None = None,
        exported: bool = False,
        teacher: Callable[[], tuple[Network, Variables]] | None = None,
        family: str | None = None,
    ) -> None:
        """Train one kind of students, for all learning rates and seeds.

        Args:
          name: what the table calls them.
          objective: what they are trained on.
          parts: learned parts of the objective beside the student.
          exported: whether the parts stay in the student that is measured.
          teacher: makes one to be used in place of the run's own.
          family: of kinds that belong together in a picture.
        """
        config = self.config
        row = kept(self.run, name)
        if row:
            networks_done = len(config.learning_rates) * len(config.seed_list)
            self.run.advance(networks_done * config.steps, name)
        fit = Fit(
            self.run,
            self.task,
            config.student,
            objective,
            config.recipe(config.steps),
            teacher() if teacher and not row else self.teacher.frozen,
            parts,
            exported,
        )
        row = row or tuned(name, fit, config.learning_rates, config.seed_list)
        row = dataclasses.replace(row, settings={**row.settings, "family": family})
        self._rows.append((row, fit.exported))

    def result(self, question: str, better: str, than: str) -> report.Result:
        """Return the table of the teacher and all kinds of students."""
        rows = self._measured()
        named = {row.name: row for row in rows}
        gain = report.paired_gain(named[better], named[than])
        chosen = [
            f"{row.name} {row.settings['learning_rate']:g} "
            f"({100 * row.settings['validation_accuracy']:.2f} % there)"
            for row in rows[1:]
        ]
        rates = [f"{rate:g}" for rate in self.config.learning_rates]
        notes = (
            f"Learning rate, chosen on the validation split among {', '.join(rates)}: "
            f"{', '.join(chosen)}."
            if len(rates) > 1
            else f"Learning rate {rates[0]}, for all.",
            *self.notes,
            f"{self.task.name}: {self.task.splits}",
        )
        return report.Result(self._title(question), rows, [gain], notes)

    def comparison(self, baseline: str) -> report.Result:
        """Return the table of many kinds of students: the best first."""
        teacher, *students = self._measured()
        students.sort(key=lambda row: -row.values("accuracy").mean())
        config = self.config
        rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
        [alone] = [row for row in students if row.name == baseline]
        tried = len(students) - 1
        larger = "".join(
            f", {row.name} {row.cost['parameters']:,}, for it keeps its parts"
            for row in students
            if row.cost["parameters"] != alone.cost["parameters"]
        )
        notes = (
            f"gain: accuracy − {baseline}, same seed, in points ± half its 95 % "
            f"interval. Of {tried} such intervals about {0.05 * tried:.1f} miss 0 by "
            "chance alone.",
            f"All students: {config.steps} steps of {config.batch_size}, learning rate "
            f"{rates}. No weight was tuned here: it is the published one (for 32 x 32 "
            "images and long training) where there is one for this use, else 1, or 0.9 "
            "beside 0.1 for the labels.",
            f"Parameters: teacher {teacher.cost['parameters']:,}, students "
            f"{alone.cost['parameters']:,}{larger}.",
            *self.notes,
            f"{self.task.name}: {self.task.splits}",
        )
        return report.Result(
            self._title(f"Methods on {self.task.name}"),
            [teacher, *students],
            notes=notes,
            columns=("accuracy", "gain", "agreement", "negative_log_likelihood"),
            baseline=baseline,
        )

    def _measured(self) -> list[report.Row]:
        return with_costs(self._rows, self.teacher.fit.example)

    def _title(self, question: str) -> str:
        seeds = len(self.config.seed_list)
        over = f"mean ± std over {seeds} seeds" if seeds > 1 else "1 seed"
        return f"{question}; test split, {over}"
