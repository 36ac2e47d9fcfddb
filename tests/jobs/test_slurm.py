"""jobs/slurm.sbatch in a real Slurm: what is requeued, what is not, and how often.

`eval "$(jobs/slurm-local.sh start)"` brings one up.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
TASKS = 2
# seconds: for a command to answer, and for all jobs to end
ANSWER, END = 15, 90
# since when requeued jobs have been seen to wait
WAITING = {}
# how the tasks end -> what becomes of the job: its state, exit code and restarts
OUTCOMES = {
    "done": ("COMPLETED", 0, 0),
    "refused": ("FAILED", 2, 0),
    "crashed": ("FAILED", 1, 0),
    "preempted": ("COMPLETED", 0, 1),
    "left": ("COMPLETED", 0, 1),
    "killed": ("COMPLETED", 0, 1),
    "again": ("FAILED", 143, 1),  # no end of it, with at most one restart
    "stopped": ("COMPLETED", 0, 1),
    "cancelled": ("CANCELLED", 143, 0),
}


def ask(*command, **options):
    """Return what a command of Slurm prints."""
    options = {"capture_output": True, "text": True, "timeout": ANSWER} | options
    return subprocess.run(command, check=True, **options).stdout.strip()


@pytest.fixture(scope="module")
def cluster():
    """A Slurm that answers and has a node that works."""
    if shutil.which("sinfo") is None:
        pytest.skip("needs Slurm: see jobs/slurm-local.sh")
    try:
        states = ask("sinfo", "--noheader", "--format=%T").split()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no Slurm answers: {getattr(error, 'stderr', None) or error}")
    if not {"idle", "mixed", "allocated"} & set(states):
        pytest.skip(f"no node of Slurm works: {states}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a stand-in where `python -m experiments.<name>` finds it."""
    root = tmp_path_factory.mktemp("slurm")
    (root / "experiments").mkdir()
    (root / "experiments" / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("standin.py"), root / "experiments")
    return root


def submit(place, *arguments, **environment):
    """Submit jobs/slurm.sbatch with two tasks and return the job's number."""
    options = [f"--ntasks-per-node={TASKS}", "--time=5", "--output=%j.log"]
    command = ["sbatch", "--parsable", *options, str(JOBS / "slurm.sbatch")]
    # whatever options of Slurm there are in the environment of the tests
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }
    environment = kept | {"KDJAX_PYTHON": sys.executable} | environment
    return ask(*command, *arguments, cwd=place, env=environment)


def look(job):
    """Return a job's state, exit code and restarts; start it if it only waits."""
    said = ask("scontrol", "show", "job", job)
    fields = dict(re.findall(r"(\w+)=(\S+)", said))
    restarts = int(fields["Restarts"])
    waits = fields["JobState"] == "PENDING" and restarts > 0
    since = WAITING.setdefault((job, restarts), time.monotonic()) if waits else None
    # By default Slurm lets a requeued job wait for two minutes. Not at once: at first
    # it is revoked, and would not be launched.
    if since is not None and time.monotonic() - since > 3:
        command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(command, capture_output=True, timeout=ANSWER)
    return fields["JobState"], int(fields["ExitCode"].split(":")[0]), restarts


def wait_until(condition, end):
    """Wait until a condition holds, or until the time is `end`."""
    while not condition() and time.monotonic() < end:
        time.sleep(0.3)


def has_ended(job):
    going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
    return look(job)[0] not in going


def interrupt(place, numbers, end):
    """Signal and cancel the jobs that wait for it, once their tasks do."""
    for how, options in (("stopped", ["--signal=TERM"]), ("cancelled", [])):
        ready = [place / f"ready-{numbers[how]}-{rank}" for rank in range(TASKS)]
        wait_until(lambda files=ready: all(x.exists() for x in files), end)
        ask("scancel", *options, numbers[how])


@pytest.fixture(scope="module")
def jobs(cluster, place):
    """A job of each kind, all submitted at once: what became of it, and its log."""
    numbers = {}
    end = time.monotonic() + END
    try:
        for how in OUTCOMES:
            flags = (how, "--name", "two words")
            numbers[how] = submit(place, "standin", *flags, KDJAX_MAX_RESTARTS="1")
        interrupt(place, numbers, end)
        for job in numbers.values():
            wait_until(lambda job=job: has_ended(job), end)
        logs = {how: place / f"{job}.log" for how, job in numbers.items()}
        return {
            how: (look(job), logs[how].read_text() if logs[how].exists() else "")
            for how, job in numbers.items()
        }
    finally:
        if numbers:
            ask("scancel", *numbers.values())


@pytest.mark.parametrize("how", OUTCOMES)
def test_outcome(jobs, how):
    outcome, log = jobs[how]
    assert outcome == OUTCOMES[how], log
    runs = re.findall(r"^run (\d) rank (\d)", log, re.MULTILINE)
    restarts = OUTCOMES[how][2]
    expected = [(str(k), str(r)) for k in range(restarts + 1) for r in range(TASKS)]
    assert sorted(runs) == expected, log
    assert f"flags {[how, '--name', 'two words']}" in log


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
def test_every_task_saves(jobs, how):
    """Undisturbed, though others have left and the batch shell is signalled as well."""
    _, log = jobs[how]
    assert sorted(re.findall(r"saved by rank (\d)", log)) == ["0", "1"], log


def test_usage(cluster, place):
    """Without an experiment nothing runs, and the log says why."""
    job = submit(place)
    wait_until(lambda: has_ended(job), time.monotonic() + END)
    state, _, restarts = look(job)
    assert (state, restarts) == ("FAILED", 0)
    assert "usage: sbatch" in (place / f"{job}.log").read_text()


def test_an_experiment_is_stopped_requeued_and_done(cluster, tmp_path):
    run, end = tmp_path / "run", time.monotonic() + 3 * END
    flags = ("--seeds", "1", "--steps", "1500", "--teacher-steps", "25")
    often = ("--learning-rates", "0.01", "--checkpoint-seconds", "0.05")
    cache = str(tmp_path / "cache")
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": cache, "JAX_NUM_CPU_DEVICES": "1"}
    job = submit(tmp_path, "response", *flags, *often, "--workdir", str(run), **own)
    try:
        saved = run / "checkpoints" / "student-alone"
        wait_until(lambda: [*saved.glob("*/[0-9]*")] or has_ended(job), end)
        ask("scancel", "--signal=TERM", job)
        wait_until(lambda: has_ended(job), end)
        log = (tmp_path / f"{job}.log").read_text()
        assert look(job) == ("COMPLETED", 0, 1), log
    finally:
        ask("scancel", job)
    assert log.count("Stopped. What is done is saved") == 1
    assert "exit code 143 after 0 restarts: asking to be requeued" in log
    assert "Teacher: reused" in log
    assert (run / "results.json").exists()
