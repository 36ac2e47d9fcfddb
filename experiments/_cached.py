"""Students of images taught by what a teacher said once: without the teacher."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

from experiments import _config, _teacher
from experiments._images import Images
from experiments._lock import Lock
from experiments._problem import Told
from experiments._rows import with_costs
from experiments._run import Run
from experiments._students import Kind, Students
from experiments._workdir import RunError, flat
from kdjax import checks, data, processes, report
from kdjax.objectives import Objective
from kdjax.teachers import cache

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Students and a teacher, or what it said."""

    teacher_cache: Path | None = None
    """Learn from what the teacher said, kept in this folder; it is filled once."""
    teacher_views: int | None = None
    """How many views of a training image are kept there, and seen by all students.
    Default: 1, with --augment 8."""

    def checked(self) -> Self:
        """Return it with all that was left open filled in.

        Raises:
          ValueError: for a number that cannot be.
        """
        config, views = super().checked(), self.teacher_views
        if views is not None:
            checks.positive("config", teacher_views=views)
        if self.teacher_cache is None and views is not None:
            raise ValueError(
                f"config: teacher_views are kept in a cache, got {views}; say where "
                "with --teacher-cache"
            )
        if not self.augment and (views or 1) > 1:
            raise ValueError(
                "config: teacher_views must be 1 without --augment, for all views "
                f"would be the same, got {views}"
            )
        if self.teacher_cache is None:
            return config
        views = views or (8 if self.augment else 1)
        return dataclasses.replace(config, teacher_views=views)


class Cached(Students):
    """An image task and what its teacher said, ready for students.

    The teacher is had only to fill the cache: trained or reused, asked, and dropped.

    Args:
      run: the run.
      config: its config.
      task: its data.
      kinds: how many kinds of students will be trained.
    """

    def __init__(self, run: Run, config: Config, task: data.Task, kinds: int) -> None:
        """Read the cache, or fill it first."""
        store = _Store(run, config, task)
        found = store.read() if processes.first(store.is_filled) else None
        trained = found is None and config.teacher_from is None
        super().__init__(
            run, config, task, kinds, config.teacher_steps if trained else 0
        )
        if found is None:
            store.fill(self.example)
            found = store.read()
        assert found is not None
        self._teacher, self.judge = found
        run.pin("teacher", self._teacher.seeds[0]["sha256"])
        said = self.judge.splits["train"]
        run.say(
            f"Teacher: what it said lies in {store.place} ({said.num_examples:,} "
            f"training images, views of each: {said.views})."
        )
        self.notes.append(
            "The teacher's row is as it was when its answers were stored, the latency, "
            "too."
        )

    def students(self, name: str, objective: Objective) -> Kind:
        """Train one kind of students: `Images.students`."""
        return self.train(name, objective, teacher=self.judge)

    def measured(self) -> list[report.Row]:
        """Return all rows with their costs, the teacher's first."""
        return [self._teacher, *super().measured()]


def images(run: Run, config: Config, task: data.Task, kinds: int) -> Images | Cached:
    """Return the task with its teacher or, with a cache, with what that said."""
    cached = config.teacher_cache is not None
    if run.options.plan and cached:  # a plan has no teacher to ask
        cached = _Store(run, config, task).is_filled()
    room = Cached if cached else Images
    return room(run, config, task, kinds)


class _Store:
    """The folder with a cache for each split, and the teacher's row of the table.

    What must be in it is known from the config alone.
    """

    def __init__(self, run: Run, config: Config, task: data.Task) -> None:
        self.place: Path = config.teacher_cache
        self._run, self._config, self._task = run, config, task
        self._about = flat(_teacher.about(run, config, task), "teacher.")
        self._view = data.views(task, *config.recipe(1).augmentations)

    def _seen(self, split: str) -> dict[str, Any]:
        """How the teacher sees a split."""
        if split == "train":
            return {"transform": self._view, "views": self._config.teacher_views}
        return {"transform": data.pipeline(self._task)}

    def read(self) -> tuple[report.Row, Told] | None:
        """Return the teacher's row and what it said, or None if some is missing.

        Raises:
          RunError: if something else was said, or if a file is damaged.
        """
        splits = {split: self._read(split) for split in _SPLITS}
        row, teacher = self._read_row()
        if any(
            said is None or said.about["teacher"] != teacher for said in splits.values()
        ):
            return None
        return row, Told(self._view, splits)

    def is_filled(self) -> bool:
        """Whether all is there; of several processes, one looks for all."""
        return self.read() is not None

    def _read(self, split: str) -> cache.Cache | None:
        arrays, folder = getattr(self._task, split), self.place / split
        seen = cache.describe(arrays, **self._seen(split))
        try:
            return cache.read(folder, {**self._about, "split": split, **seen})
        except FileNotFoundError:
            return None
        except cache.Damaged as error:
            cure = f"Here that is: delete {folder} and start again."
            raise RunError(f"--teacher-cache: {error}\n{cure}") from error
        except RuntimeError:  # unfinished, so goes on
            return None
        except ValueError as error:
            cure = f"Choose another folder for this teacher, or delete {self.place}."
            raise RunError(f"--teacher-cache: {error}\n{cure}") from error

    def _read_row(self) -> tuple[report.Row | None, str | None]:
        try:
            saved = json.loads((self.place / "teacher.json").read_text())
            return report.Row(**saved["row"]), saved["teacher"]
        except FileNotFoundError:
            return None, None
        except (json.JSONDecodeError, TypeError, KeyError):
            self._run.say(f"{self.place}/teacher.json is damaged; making it again.")
            return None, None

    def _ask(self, teacher: _teacher.Teacher, example: Any) -> None:
        for split in _SPLITS:
            said = cache.write(
                self.place / split,
                *teacher.frozen,
                getattr(self._task, split),
                {**self._about, "split": split},
                **self._seen(split),
                say=lambda text: self._run.advance(0, text),
            )
        [row] = with_costs([(teacher.row, teacher.fit.exported)], example)
        saved = {"teacher": said.about["teacher"], "row": dataclasses.asdict(row)}
        report.write_json(self.place / "teacher.json", saved)

    def fill(self, example: Any) -> None:
        """Get the teacher and write what it says, or go on with that."""
        self.place.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.place)
        _teacher.wait(self._run, lock)
        try:
            teacher = _teacher.of(self._run, self._config, self._task)
            processes.first(lambda: self._ask(teacher, example))
        finally:
            lock.release()
        self._run.say(f"Teacher: asked once; what it said is written to {self.place}.")
