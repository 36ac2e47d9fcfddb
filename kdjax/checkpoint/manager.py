"""The checkpoints of a run."""

import contextlib
import dataclasses
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from kdjax import processes, trees
from kdjax.base import PyTree
from kdjax.checkpoint import targets
from kdjax.checkpoint.damage import checksum, quiet, verify_store


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or holds something else than was asked for."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found.

    Attributes:
      step: the step it was saved at.
      state: the pytree, like the one that was asked for.
      extra: the JSON values saved beside it, such as the position in the data.
      problems: one sentence for each later checkpoint that could not be read.
    """

    step: int
    state: Any
    extra: dict[str, Any]
    problems: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run in one directory; a context manager.

    Args:
      directory: where; made when the first checkpoint is saved.
      keep: how many of the latest to keep.
      keep_steps: which to keep whatever comes, such as later teachers.
      best: name of a metric whose best checkpoint is kept as well, or None.
      mode: `"max"` or `"min"`: which value of it is best.

    Example::

        with checkpoint.Checkpoints("run/checkpoints", best="accuracy") as checkpoints:
            found = checkpoints.restore(like=state)
            state = found.state if found else state
            ...
            checkpoints.save(step, state, extra={"epoch": 3}, metrics={"accuracy": 0.9})
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 2,
        keep_steps: Sequence[int] = (),
        best: str | None = None,
        mode: str = "max",
    ) -> None:
        """See the class."""
        self.directory = Path(directory).absolute()
        self._best = best
        policies: list[Any] = [
            preservation_policy.LatestN(keep),
            preservation_policy.CustomSteps(keep_steps),
        ]
        options: dict[str, Any] = {}
        if best is not None:
            options = {"best_fn": lambda m: m[best], "best_mode": mode}
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda m: m[best], reverse=mode == "min", n=1
                )
            )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                **options,
            ),
            # named here, or a manager that has saved nothing could not describe them
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "extra": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what is being written and close."""
        self.close()

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start writing a checkpoint; the state may be donated as soon as this returns.

        Args:
          step: its number; one that is there already is left as it is.
          state: any pytree of arrays.
          extra: JSON values to keep beside it.
          metrics: must hold the metric named as `best`, if one was.

        Raises:
          CheckpointError: if this or an earlier one cannot be written.
          ValueError: if the metric is missing.
        """
        beside: dict[str, Any] = {"extra": dict(extra or {})}
        beside["shapes"] = trees.describe(state)
        beside["sha256"] = trees.fingerprint(state)
        beside["crc32"] = checksum(beside)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(beside)
        )
        if self._best and self._best not in (metrics or {}):
            given = sorted(metrics or {})
            raise ValueError(f"Checkpoints.save: metrics lack {self._best!r}: {given}")
        with self._explained():
            if step not in self._manager.all_steps():
                self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(
        self,
        like: PyTree | None,
        *,
        step: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Restored | None:
        """Return the latest checkpoint that can be read, or None if there is none.

        One that cannot be read is set aside as `unreadable-<step>`, so that its number
        is free again, and named in `problems`.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes,
            dtypes and shardings to restore; None takes what is there, as nested dicts
            and lists of arrays where it was saved from.
          step: take only this one.
          say: told each problem as it is found, `print` for instance.

        Raises:
          CheckpointError: if the checkpoint holds a state of another structure or other
            shapes than `like`, or while JAX traces a function.
        """
        if isinstance(jnp.zeros(()), jax.core.Tracer):  # else it would look damaged
            raise CheckpointError(
                f"{self.directory} cannot be read inside of jit, vmap or eval_shape: "
                "restore first, and hand the state to the function"
            )
        problems: list[str] = []
        steps = self.steps() if step is None else [step]
        for number in reversed(steps):
            reason, read = self._attempt(self._described, number, like)
            if reason is None:
                reason, read = self._attempt(self._read, number, *read)
            if reason is not None:
                problems.append(
                    f"checkpoint {number} in {self.directory} cannot be read and was "
                    f"set aside ({reason[:100]})"
                )
                if say:
                    say(problems[-1])
                self._set_aside(number)
                continue
            state, extra = read
            return Restored(number, state, extra, tuple(problems))
        return None

    def restore_best(self, like: PyTree) -> Restored | None:
        """Return the checkpoint with the best metric, or None if there is none."""
        step = self._manager.best_step() if self._best else None
        return self.restore(like, step=step) if step is not None else None

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
          CheckpointError: if something could not be written.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and close; safe to call twice."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _attempt(
        self, read: Callable[..., Any], *arguments: Any
    ) -> tuple[str | None, Any]:
        """Return why something cannot be read, or None and what was read.

        What one process cannot read, none takes.
        """
        reason, found = None, None
        try:
            with quiet():
                found = read(*arguments)
        except (CheckpointError, MemoryError, PermissionError):
            raise  # nothing that says that the checkpoint is damaged
        except Exception as error:  # whatever orbax meets in a damaged directory
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        reasons = [one for one in processes.each(reason) if one is not None]
        return (reasons[0], None) if reasons else (None, found)

    def _described(
        self, step: int, like: PyTree | None
    ) -> tuple[PyTree, dict[str, Any]]:
        """Return what a checkpoint is to be restored like, and what stands beside it.

        All that can be checked without restoring is.
        """
        args = ocp.args.Composite(extra=ocp.args.JsonRestore())
        beside = self._manager.restore(step, args=args)["extra"]
        if beside.pop("crc32", None) != checksum(beside):
            raise ValueError("its description is damaged")
        saved = beside["shapes"]
        if like is not None and saved != (wanted := trees.describe(like)):
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} holds another state:\n"
                + trees.differences(saved=saved, wanted=wanted)
            )
        verify_store(self.directory / str(step) / "state")
        if like is None:
            found = self._manager.item_metadata(step)["state"].tree
            like = targets.described(found, saved)
        return jax.tree.map(targets.target, like), beside

    def _read(
        self, step: int, target: PyTree, beside: dict[str, Any]
    ) -> tuple[PyTree, dict[str, Any]]:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = self._manager.restore(step, args=args)["state"]
        if trees.fingerprint(state) != beside["sha256"]:
            raise ValueError("its content does not match its checksum")
        return state, beside["extra"]

    def _set_aside(self, step: int) -> None:
        aside = self.directory / f"unreadable-{step}"
        if processes.is_main():
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
        processes.together()
        self._manager.reload()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = str(error) or type(error).__name__
            steps = self.steps()
            last = f"the last complete one is {steps[-1]}" if steps else "there is none"
            advice = ""
            if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in text:
                text = "no space left on device"
                advice = " Make room or choose another place, then run again to go on."
            raise CheckpointError(
                f"cannot write a checkpoint to {self.directory}: "
                f"{text.splitlines()[0]}; {last}.{advice}"
            ) from error
