"""Metrics as JSON lines and TensorBoard events."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricLog:
    """The metrics of all networks of a run.

    `metrics.jsonl` holds one line per network and step, `tensorboard/<network>` the
    same as events. Both can be rewound to the step that a resumed run starts from, so
    that an interrupted run leaves the same lines as an uninterrupted one.

    Args:
      directory: the run's.
      active: whether to write at all; of several processes only one should.
    """

    def __init__(self, directory: str | Path, active: bool = True) -> None:
        """See the class."""
        self._active = active
        self._directory = Path(directory)
        self.path = self._directory / "metrics.jsonl"
        self._events: tuple[str, Any] | None = None

    def write(self, network: str, step: int, values: Mapping[str, float]) -> None:
        """Add a line; it is on disk when this returns, its events soon after."""
        if not self._active:
            return
        line = json.dumps({"network": network, "step": step, **values})
        self._directory.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line + "\n")
        self._add_events(network, step, values)

    def read(self, network: str | None = None) -> list[dict[str, Any]]:
        """Return the lines, of one network or all; a line cut short is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:  # the process was killed while writing it
                continue
        return [x for x in lines if network is None or x["network"] == network]

    def rewind(self, network: str, step: int) -> None:
        """Forget what was written of a network after a step.

        Its events are written anew from the lines: a killed process leaves fewer.
        """
        if not self._active:
            return
        kept = [x for x in self.read() if x["network"] != network or x["step"] <= step]
        if self.path.exists():
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(temporary, self.path)
        self.close()
        shutil.rmtree(self._directory / "tensorboard" / network, ignore_errors=True)
        for line in kept:
            if line.pop("network") == network:
                self._add_events(network, line.pop("step"), line)

    def close(self) -> None:
        """Write the events that are still in memory."""
        if self._events is not None:
            self._events[1].close()
            self._events = None

    def _add_events(self, network: str, step: int, values: Mapping[str, float]) -> None:
        if self._events is None or self._events[0] != network:
            from tensorboardX import SummaryWriter

            self.close()
            directory = str(self._directory / "tensorboard" / network)
            self._events = network, SummaryWriter(directory)
        for name, value in values.items():
            self._events[1].add_scalar(name, value, step)
