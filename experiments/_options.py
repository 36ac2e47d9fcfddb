"""Where a run lies and how its process is set up, as flags."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax

from kdjax import processes, train

Cut = Literal["model", "all", "none"]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How training is spread over devices: what it computes stays the same."""

    data: int | None = None
    """Devices that a batch is spread over. Default: all that --mesh.model leaves."""
    model: int = 1
    """Devices that large arrays are cut over, in each of those places."""
    cut: Cut = "model"
    """Over what large parameters and optimizer states are cut; all is fully sharded."""
    cut_teacher: Cut | None = None
    """The same for the teacher's. Default: as --mesh.cut."""
    least: int = 2**14
    """Arrays with fewer elements are never cut."""

    @property
    def size(self) -> int:
        """How many devices are asked for."""
        return (self.data or 1) * self.model

    def shardings(self, plan: bool = False) -> train.Shardings | None:
        """Return where arrays lie; None where there is nothing but one device.

        Args:
          plan: whether CPUs may stand in for what is not there.

        Raises:
          ValueError: if there are not as many devices.
        """
        there = devices()
        if plan and len(there) < self.size:
            there = jax.devices("cpu")
        mesh = train.make_mesh(self.data, self.model, devices=there)
        if mesh.size == 1 and not processes.several():
            return None
        cut_teacher = self.cut_teacher or self.cut
        return _shardings(mesh, self.cut, cut_teacher, self.least)


def devices() -> list[jax.Device]:
    """Return the devices that there are for training, of all processes."""
    return jax.devices()


@functools.cache  # one object, so that programs compiled with it are found again
def _shardings(
    mesh: jax.sharding.Mesh, cut: Cut, cut_teacher: Cut, least: int
) -> train.Shardings:
    def rule(over: Cut) -> train.Rule:
        if over == "none":
            return train.replicated
        names = ("model",) if over == "model" else ("model", "data")
        return train.longest_axes(mesh, *names, least=least)

    return train.Shardings(mesh, rule(cut), rule(cut_teacher))


@dataclasses.dataclass(frozen=True)
class Options:
    """Where a run lies and how its process is set up: nothing that changes a result."""

    workdir: Path | None = None
    """Directory of the run; the same command goes on there. Default: runs/NAME."""
    teacher_dir: Path | None = None
    """Where teachers are kept. Default: teachers/ in --workdir, or in runs/."""
    data_dir: Path | None = None
    """Prepared TFDS data sets. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    smoke: bool = False
    """On the command line: start from a size that ends in seconds."""
    plan: bool = False
    """Train nothing: say what memory networks need of each device, simulated here."""
    mesh: Mesh = Mesh()
    distributed: bool = False
    """This is one of several processes of a job; mostly found out, see --detect."""
    detect: bool = True
    """Find out from what Slurm, Open MPI, a TPU pod or JAX_COORDINATOR_ADDRESS say."""
    heartbeat_seconds: int = 60
    """Stop when another process of the job was not heard of for so long."""
    remat: bool = False
    """Compute the inside of a network's parts again for the gradient: less memory."""
    checkpoint_seconds: float = 20.0
    """Least time between two checkpoints of a network; its end is saved anyway."""
    log_every: int | None = None
    """Say how fast training is after every so many steps."""
    max_skipped: int = 10
    """Stop after this many steps in a row whose loss or gradient is not finite."""
    progress: bool = True
    """Show a progress bar (on a terminal)."""
    allocator: bool = True
    """Let glibc keep memory that XLA frees (Linux CPUs): large steps run faster."""
    compilation_cache: bool = True
    """Keep compiled programs in ~/.cache/kdjax/xla for the next run."""
    log_level: str = "ERROR"
    """Least severe messages shown of JAX and XLA: INFO, WARNING, ERROR."""
    traceback: bool = False
    """Show where an error arose, not only what it says."""
