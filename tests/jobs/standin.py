"""Stands in for an experiment under Slurm: ends as it is told, at its first run."""

import os
import signal
import sys
import time
from pathlib import Path

how = sys.argv[1]
rank = int(os.environ["SLURM_PROCID"])
restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
job = os.environ["SLURM_JOB_ID"]


def leave(code):
    sys.stdout.flush()
    os._exit(code)


def wait_for_stop():
    """Save when SIGTERM comes; the first rank takes longer than the others."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    Path(f"ready-{job}-{rank}").touch()
    end = time.monotonic() + 60
    while not stopped:
        if time.monotonic() > end:
            leave(1)
        time.sleep(0.02)
    time.sleep(0.8 if rank == 0 else 0)
    print(f"{'saved' if len(stopped) == 1 else 'disturbed'} by rank {rank}")
    leave(143)


print(f"run {restarts} rank {rank} flags {sys.argv[1:]}", flush=True)
if restarts and how != "again":
    leave(0)
if how == "killed" and rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if how == "refused":  # ranks start and refuse at different times
    time.sleep(0.5 * rank)
if how in ("stopped", "cancelled"):
    wait_for_stop()
time.sleep(0.5 * (how == "killed"))
leave({"done": 0, "refused": 2, "killed": 75, "left": 75, "crashed": 1}.get(how, 143))
