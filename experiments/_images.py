"""Students of images beside one large teacher."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments import _teacher
from experiments._config import Config
from experiments._recipe import Learner
from experiments._rows import kept
from experiments._run import Run
from experiments._students import Kind, Students
from kdjax import data, networks
from kdjax.base import Network, Variables
from kdjax.objectives import Objective


class Images(Students):
    """An image task and its teacher, ready for students; trains the teacher if needed.

    Args:
      run: the run.
      config: its config.
      task: its data.
      kinds: how many kinds of students will be trained.
    """

    def __init__(self, run: Run, config: Config, task: data.Task, kinds: int) -> None:
        """Get the teacher."""
        own = 0 if config.teacher_from else config.teacher_steps
        super().__init__(run, config, task, kinds, own)
        self.teacher = _teacher.of(run, config, task)
        run.pin("teacher", self.teacher.row.seeds[0]["sha256"])
        self.judge = self.teacher.frozen
        self.references = [(self.teacher.row, self.teacher.fit.exported)]

    def match(self, layers: tuple[str, ...], needs: str) -> Any:
        """Check that both networks have these features, and fitting: `networks.match`.

        Raises:
          ValueError: with all that does not fit, before anything is trained.
        """
        both = self.student, self.teacher.fit.exported
        return networks.match(*both, self.example, layers, needs=needs)

    def students(
        self,
        name: str,
        objective: Objective,
        *,
        parts: Mapping[str, Any] | None = None,
        exported: bool = False,
        teacher: Callable[[], tuple[Network, Variables]] | None = None,
        family: str | None = None,
    ) -> Kind:
        """Train one kind of students of the teacher.

        Args:
          name: what the table calls them.
          objective: what they are trained on.
          parts: learned parts of the objective beside the student.
          exported: whether the parts stay in the student that is measured.
          teacher: makes one to be used in place of the run's own.
          family: of kinds that belong together in a picture.
        """
        # a row that is done needs no teacher made anew
        anew = teacher is not None and kept(self.run, name) is None
        taught_by = teacher() if teacher and anew else self.teacher.frozen
        return self.train(
            name,
            objective,
            learner=self.with_parts(parts, taught_by[0], keep=exported),
            teacher=taught_by,
            family=family,
        )

    def with_parts(
        self, parts: Mapping[str, Any] | None, teacher: Network, keep: bool = False
    ) -> Learner:
        """Return the student with learned parts beside it; `keep` exports them."""
        if not parts:
            return self.learner
        return self.learner.with_parts(parts, teacher, keep)
