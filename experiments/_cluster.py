"""The processes of a job: how they find each other, stop together, and miss one."""

import contextlib
import ctypes
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from experiments._options import Options
from kdjax import processes

LOST = 75
"""Exit code (EX_TEMPFAIL) of a process that misses another one: run it again."""
_SHUTDOWN_SECONDS = 30
_GONE = (
    "Another process of this job is gone: killed, out of memory, or its machine lost"
)
_GO_ON = "What was saved holds; the same command goes on from there."
_NOT_MET = (
    "The processes of this job did not find each other. Start them with srun, mpirun "
    "or a file of jobs/, or set for each of them JAX_COORDINATOR_ADDRESS (host:port of "
    "the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID (0, 1, ...)."
)
# What collectives, the coordination service and orbax's barriers say of a lost process.
_LOST = re.compile(
    r"Gloo|NCCL|coordination|CoordinationService|heartbeat|[Bb]arrier|Socket closed|"
    r"Connection (reset|closed|refused)|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED"
)
_syncs = itertools.count()
_joined = False
_leaving: int | None = None
_FAILED, _SAID = "kdjax/failed", "kdjax/said"
_GRACE_SECONDS = 5


def found(environment: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Return what `jax.distributed.initialize` is to be given; None for one process.

    Where a scheduler tells the rest to JAX itself, that is nothing.

    Raises:
      ValueError: if the variables for starting by hand are not complete.
    """
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if address:
        return _by_hand(address, environment)
    slurm = {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST"} <= set(environment)
    if slurm and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return {}
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return {}
    pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return {} if pod or "MEGASCALE_COORDINATOR_ADDRESS" in environment else None


def _by_hand(address: str, environment: Mapping[str, str]) -> dict[str, Any]:
    def number(*names: str) -> int:
        for name in names:
            if name in environment:
                return int(environment[name])
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address}, but {names[0]} is not set: every "
            "process of a job needs JAX_COORDINATOR_ADDRESS (host:port of the first), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID (0, 1, ...)"
        )

    return {
        "coordinator_address": address,
        "num_processes": number(
            "JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"
        ),
        "process_id": number(
            *("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
            *("OMPI_COMM_WORLD_RANK", "SLURM_PROCID"),
        ),
        "cluster_detection_method": "deactivate",
    }


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process speaks for all, as far as can be told before they meet."""
    if _joined:
        return processes.is_main()
    try:
        if found(environment) is None:
            return True
    except ValueError:
        return True
    names = (
        *("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK"),
        *("SLURM_PROCID", "TPU_WORKER_ID"),
    )
    # the first that is there: a pod's index says nothing where a process's number does
    return next((environment[x] for x in names if x in environment), "0") == "0"


def join(options: Options) -> None:
    """Meet the other processes of the job, if it has any; before JAX has devices.

    Raises:
      ValueError: if it is not said who they are.
    """
    global _joined
    arguments = found() if options.detect else None
    if arguments is None and not options.distributed:
        return
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)
    # Until JAX listens there is nothing to save, and Python would not hear of it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            **(arguments or {}),
            heartbeat_timeout_seconds=options.heartbeat_seconds,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{_NOT_MET}\n({str(error).splitlines()[0]})") from error
    _joined = True
    threading.Thread(target=_leave_with_the_first, daemon=True).start()


def has_joined() -> bool:
    """Whether this is a process of a job, be it the only one."""
    return _joined


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int) -> None:
    """Say what happened where XLA aborts the process because another one is gone.

    It does so from a thread of its own, while Python may be waiting for a device, so
    that a handler of the signal module would never run.
    """
    if not _joined:
        os.write(2, f"\n{_NOT_MET}\n".encode())
    elif _leaving is None:
        said = f"{_GONE}; or XLA failed here, as it says above. {_GO_ON}"
        os.write(2, f"\n{said}\n".encode())
    os._exit(LOST if _leaving is None else _leaving)


def fail(code: int, text: str) -> bool:
    """Have all processes leave with this one's code; return whether to say why.

    Mostly all fail alike, and then the first one says it.
    """
    global _leaving
    _leaving = code
    if not processes.several():
        return True
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was faster
        _service().key_value_set(_FAILED, str(code))
    if processes.is_main():
        _service().key_value_set(_SAID, text)
        return True
    try:
        return _service().blocking_key_value_get(_SAID, 3000) != text
    except jax.errors.JaxRuntimeError:
        return True


def _leave_with_the_first() -> None:
    """Wait for a process to fail, and leave with its code where nothing else does.

    This one may be waiting for it in a collective.
    """
    try:
        code = int(_service().blocking_key_value_get(_FAILED, 7 * 24 * 60 * 60 * 1000))
    except jax.errors.JaxRuntimeError:
        return  # the service is gone, or this process has taken leave of it
    time.sleep(_GRACE_SECONDS)
    os.write(2, b"\nAnother process of this job has failed, and has said why.\n")
    os._exit(code)


def _service() -> Any:
    return processes.global_state.client


def asked_to_stop() -> bool:
    """Whether some process got SIGTERM; all learn of it at the same call.

    All processes have to call it equally often; not so what one does alone.
    """
    if not _joined or processes.is_alone():
        return False
    return multihost_utils.reached_preemption_sync_point(next(_syncs))


def ask_to_stop() -> None:
    """Ask all processes to stop together, as a scheduler would."""
    os.kill(os.getpid(), signal.SIGTERM)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone.

    Those of JAX and of what it runs do, and what was raised because of them.
    """
    if not processes.several():
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, jax.errors.JaxRuntimeError | ValueError) and _LOST.search(
            str(cause)
        ):
            return True
        cause = cause.__cause__
    return False


def give_up() -> None:
    """Leave at once: nobody is there any more to leave together with."""
    os.write(2, f"\n{_GONE}. {_GO_ON}\n".encode())
    os._exit(LOST)


def leave(code: int, at_once: bool = False) -> None:
    """Take leave of the other processes before this one exits with a code."""
    global _leaving
    _leaving = code
    if _joined and at_once:
        os._exit(code)
    if _joined:
        jax.distributed.shutdown()
