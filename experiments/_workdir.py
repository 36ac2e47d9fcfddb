"""The directory of a run: manifest, lock, log, progress bar, results."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import _cluster, _pictures, _plan
from experiments._lock import Lock
from experiments._options import Options
from kdjax import processes, report, train, trees


class RunError(ValueError):
    """The run cannot start or go on; the message says why and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop; all is saved."""


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, with dotted names."""
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value
    return rows


def identity(config: Any) -> dict[str, Any]:
    """Return the fields that a result depends on, as flat JSON values."""
    fields = dataclasses.asdict(config)
    del fields["run"]
    return json.loads(json.dumps(flat(fields), default=str))


def digest(value: Any) -> str:
    """Return a short name for a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class Run:
    """The directory of one run; a context manager.

    Args:
      experiment: its name.
      config: its config; the field `run` holds the `Options`.

    Raises:
      RunError: if the directory belongs to another config or is in use.
    """

    stopping = False
    """Whether the process was asked to stop; set by the command line's signals."""
    stepping = False
    """Whether a network is in training, so that stopping waits for step and save."""

    def __init__(self, experiment: str, config: Any) -> None:
        """See the class."""
        self.options: Options = config.run
        self.needs: list[_plan.Need] = []
        self.experiment = experiment
        self.config = {"experiment": experiment, **identity(config)}
        # a plan leaves nothing behind
        self._imagined = tempfile.TemporaryDirectory() if self.options.plan else None
        runs = Path(self._imagined.name if self._imagined else "runs")
        dataset = self.config.get("dataset", "").replace("/", "-")
        name = f"{experiment}-{dataset}-{digest(self.config)}"
        given = None if self.options.plan else self.options.workdir
        self.directory = given or runs / name
        kept = None if self.options.plan else self.options.teacher_dir
        self.teachers = kept or (given or runs) / "teachers"
        self.manifest = processes.first(self._check_manifest)
        self.log = report.MetricLog(self.directory, active=processes.is_main())
        self.speeds = report.MetricLog(
            self.directory / "speed", active=processes.is_main()
        )
        quiet = not processes.is_main()
        self.console = Console(soft_wrap=True, highlight=False, quiet=quiet)
        self._bar: Progress | None = None
        self._lock: Lock | None = None

    def __enter__(self) -> Self:
        """Lock the directory and write the manifest."""
        self.manifest = processes.first(self._taken)
        self.manifest["starts"].append(report.about_this_process())
        self._compare_starts()
        self._write_manifest()
        return self

    def _write_manifest(self) -> None:
        if processes.is_main():
            report.write_json(self.directory / "manifest.json", self.manifest)

    def _taken(self) -> dict[str, Any]:
        """Take the directory for this process, and return its manifest."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.directory)
        if not self._lock.take():
            raise RunError(
                f"{self.directory} is in use by {self._lock.owner()}. "
                "Wait for it, or give this run its own --workdir."
            )
        return self._check_manifest()

    @functools.cached_property
    def shardings(self) -> train.Shardings | None:
        """Where the arrays of a training lie; None for a single device."""
        return self.options.mesh.shardings(self.options.plan)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices that a training is spread over."""
        if self.shardings is None:
            return jax.local_devices()[:1]
        return list(self.shardings.mesh.devices.flat)

    def planned(self) -> None:
        """End a plan here, for what follows depends on what was trained.

        Raises:
          Planned: if this is one.
        """
        if self.options.plan:
            raise _plan.Planned(self.needs)

    def __exit__(self, *_: object) -> None:
        """Close the log and unlock."""
        if self._bar is not None:
            self._bar.stop()
        self.log.close()
        self.speeds.close()
        if self._lock is not None:
            self._lock.release()
        if self._imagined is not None:
            self._imagined.cleanup()

    @contextlib.contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """Let signals ask to stop, not interrupt, while a network is in training."""
        Run.stepping = True
        try:
            yield
        finally:
            Run.stepping = False

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.console.print(text, markup=False)

    def pin(self, name: str, value: Any) -> None:
        """Remember what the run depends on beside its config; refuse if it changed.

        Raises:
          RunError: if an earlier start of this run had another value.
        """
        known = self.manifest.setdefault("pinned", {}).setdefault(name, value)
        if known != value:
            raise RunError(
                f"{self.directory} was started with other {name} ({known[:12]}, now "
                f"{value[:12]}). Use a new --workdir."
            )
        self._write_manifest()

    def expect(self, steps: int) -> None:
        """Start the progress bar over this many training steps."""
        shown = self.options.progress and self.console.is_terminal
        self._bar = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not shown,
            transient=True,
        )
        self._bar.add_task("", total=steps)
        self._bar.start()

    def advance(self, steps: int, text: str | None = None) -> None:
        """Move the progress bar; `text` says what is going on. Stop if asked to."""
        if not Run.stepping and self.asked_to_stop():
            raise Interrupted
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, advance=steps, description=text)

    def asked_to_stop(self) -> bool:
        """Whether to stop; all processes of a job are told at the same call."""
        Run.stopping = Run.stopping or _cluster.asked_to_stop()
        return Run.stopping

    def finish(self, result: report.Result) -> report.Result:
        """Write the results in every form and print the table."""
        if self._bar is not None:
            self._bar.stop()
        if not processes.is_main():
            return result
        directory = self.directory
        names = _pictures.draw(directory, self.log, result)
        pictures = "\n".join(f"![{name}]({name}.png)" for name in names)
        (directory / "report.md").write_text(f"{result.markdown()}\n{pictures}\n")
        (directory / "results.csv").write_text(result.csv())
        report.write_json(directory / "results.json", result.json())
        self.say(f"\n{result.text(self.console.width)}\n\nThe run lies in {directory}/")
        return result

    def _compare_starts(self) -> None:
        """Say so if a run goes on with other code or versions than it began with."""
        first, now = self.manifest["starts"][0], self.manifest["starts"][-1]
        names = ("python", "versions", "git", "device", "cores")
        then, now = (
            flat({name: start[name] for name in names}) for start in (first, now)
        )
        if then != now:
            self.say(
                "This run began with other code or versions, so its bits may differ "
                f"from an uninterrupted one's:\n{trees.differences(then=then, now=now)}"
            )

    def _check_manifest(self) -> dict[str, Any]:
        path = self.directory / "manifest.json"
        if not path.exists():
            # a run killed at its very start leaves no more than hidden files
            if any(path.name[0] != "." for path in self.directory.glob("*")):
                raise RunError(
                    f"{self.directory} holds files but no manifest.json: it is no run. "
                    "Choose another --workdir."
                )
            return {"config": self.config, "starts": []}
        try:
            manifest = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise RunError(
                f"{path} is damaged ({error}). Choose another --workdir."
            ) from error
        if manifest["config"] != self.config:
            raise RunError(
                f"{self.directory} belongs to a run with another config:\n"
                + trees.differences(100, there=manifest["config"], here=self.config)
                + "\nNothing in it was changed. Choose another --workdir, or the same "
                "flags to go on with it."
            )
        return manifest
