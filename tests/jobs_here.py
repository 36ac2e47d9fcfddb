"""Several processes of one job on this machine; none outlives its test."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120
"""After so long a job that does not end fails its test."""


def free_port():
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class Job:
    """Processes with ranks that run one command.

    Args:
      count: how many.
      arguments: of Python.
      place: where what they print is kept.
      environment: beside what tells them of each other.
    """

    def __init__(self, count, arguments, place, environment):
        place.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.printed = [place / f"rank{rank}-{port}.txt" for rank in range(count)]
        self.processes = []
        for rank, path in enumerate(self.printed):
            told = {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(rank),
            }
            with path.open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env={**environment, **told},
                    cwd=place,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def said(self, rank=0):
        return self.printed[rank].read_text()

    def told(self):
        """What all have printed, for a test that fails."""
        return "\n".join(f"-- {rank}\n{self.said(rank)}" for rank in self.ranks)

    @property
    def ranks(self):
        return range(len(self.processes))

    def wait_until(self, condition):
        """Fail if a process ends before the condition holds, or time is up."""
        end = time.monotonic() + SECONDS
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                pytest.fail(f"ended too early\n{self.told()}")
            if time.monotonic() > end:
                pytest.fail(f"not within {SECONDS} s\n{self.told()}")
            time.sleep(0.02)

    def codes(self, seconds=SECONDS):
        """Return the exit codes; fail if some process does not end in time."""
        end = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(max(end - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                pytest.fail(f"still there after {seconds} s\n{self.told()}")
        return [process.returncode for process in self.processes]

    def stop(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def job(count, *arguments, place, environment):
    """Start a job, and see to it that nothing of it is left."""
    started = Job(count, arguments, place, environment)
    try:
        yield started
    finally:
        started.stop()
