"""An experiment as a job of several processes: killed, stopped, and done."""

import json
import re
import signal

import pytest

from experiments import _cluster
from tests.experiments.test_survival import lines, results
from tests.jobs_here import job

FLAGS = (
    *("-m", "experiments.response", "--seeds", "1", "--learning-rates", "0.01"),
    *("--steps", "250", "--teacher-steps", "25", "--batch-size", "30"),
    *("--checkpoint-seconds", "0.05", "--heartbeat-seconds", "20"),
)
BOUND = 60
"""Seconds within which processes that miss one have to be gone."""


def table(directory):
    """Every figure of every network, by row."""
    found = json.loads((directory / "results.json").read_text())
    return {
        row["name"]: [
            {name: x for name, x in seed.items() if isinstance(x, float)}
            for seed in row["seeds"]
        ]
        for row in found["rows"]
    }


@pytest.fixture(scope="module")
def start(environment, tmp_path_factory):
    """`start(count, run, *flags)` runs the experiment as a job of processes."""
    place = tmp_path_factory.mktemp("jobs")

    def started(count, run, *flags):
        command = (*FLAGS, "--workdir", run, *flags)
        return job(count, *command, place=place, environment=environment)

    return started


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    run = tmp_path_factory.mktemp("reference") / "run"
    with start(2, run) as running:
        assert running.codes() == [0, 0], running.told()
    assert "student distilled" in running.said(0)
    assert "student" not in running.said(1)  # one of them speaks for all
    return run


def saved(run):
    """The steps of the checkpoints of the last student, which is in training."""
    names = [path.name for path in run.glob("checkpoints/student-distilled/*/*")]
    return sorted(int(name) for name in names if name.isdigit())


@pytest.mark.parametrize("victim", [0, 1])
def test_survivors_of_a_killed_process_stop_and_all_go_on(
    start, tmp_path, uninterrupted, victim
):
    run = tmp_path / "run"
    with start(2, run) as running:
        running.wait_until(lambda: saved(run))
        running.processes[victim].send_signal(signal.SIGKILL)
        codes = running.codes(BOUND)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == _cluster.LOST, running.told()
    assert "Another process of this job is gone" in running.said(1 - victim)
    assert not (run / "results.json").exists()
    assert saved(run)
    with start(2, run) as running:
        assert running.codes() == [0, 0], running.told()
    assert results(run) == results(uninterrupted)
    assert lines(run) == lines(uninterrupted)


def test_a_process_that_is_told_to_stop_takes_all_along(
    start, tmp_path, uninterrupted, launch
):
    run = tmp_path / "run"
    with start(2, run) as running:
        running.wait_until(lambda: saved(run))
        running.processes[1].send_signal(signal.SIGTERM)
        assert running.codes(BOUND) == [143, 143], running.told()
    assert re.search(r"Stopped. What is done is saved", running.said(0))
    assert "Stopped" not in running.said(1)
    assert saved(run)
    # what two processes began, one may end
    process = launch("response", *FLAGS[2:], "--workdir", run, cwd=tmp_path)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "Teacher: reused" in out
    for name, seeds in table(uninterrupted).items():
        for one, other in zip(table(run)[name], seeds, strict=True):
            assert one == pytest.approx(other, abs=0.01), name


def test_four_processes_have_the_table_of_two(start, tmp_path, uninterrupted):
    run = tmp_path / "run"
    mesh = ("--mesh.data", "2", "--mesh.model", "2", "--mesh.least", "64")
    with start(4, run, *mesh) as running:
        assert running.codes() == [0, 0, 0, 0], running.told()
    for name, seeds in table(uninterrupted).items():
        for one, other in zip(table(run)[name], seeds, strict=True):
            assert one == pytest.approx(other, abs=0.01), name


def test_bad_input_is_said_once_and_not_run_again(start, tmp_path):
    run = tmp_path / "run"
    (run / "of").mkdir(parents=True)
    with start(2, run) as running:
        assert running.codes(BOUND) == [2, 2], running.told()
    assert "holds files but no manifest.json" in running.said(0)
    assert "manifest" not in running.said(1)
    assert "Traceback" not in running.told()
