"""A stand-in for an experiment, which fails in a way that it is told."""

import dataclasses
import sys
import time
from typing import Literal

import jax

from experiments import _run
from experiments._config import Budget
from experiments._workdir import Run


@dataclasses.dataclass(frozen=True)
class Config(Budget):
    """How it fails."""

    how: Literal["disk", "long"] = "long"


def main(config):
    rank = jax.process_index()
    if config.how == "disk" and rank == 1:
        raise OSError("no space left on device, for the last process")
    with Run("job_worker", config) as run:
        print("ready", flush=True)
        for _ in range(6000):
            run.advance(0)
            time.sleep(0.01)


if __name__ == "__main__":
    sys.argv[0] = "job_worker"
    _run.cli(main, Config(), Config())
