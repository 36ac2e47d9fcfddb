"""An experiment as a job of several processes: killed, stopped, and done."""

import dataclasses
import json
import signal

import pytest

from experiments import _cluster, response
from experiments._options import Options
from tests.experiments.test_survival import lines, results
from tests.jobs_here import job

FLAGS = (
    *("-m", "experiments.response", "--seeds", "1", "--learning-rates", "0.01"),
    *("--steps", "150", "--teacher-steps", "25", "--batch-size", "30"),
    *("--checkpoint-seconds", "0.05", "--heartbeat-seconds", "20"),
)
# the same, in this process
CONFIG = response.Config(
    seeds=(1,), learning_rates=(0.01,), steps=150, teacher_steps=25, batch_size=30
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


def killed(start, run, victim):
    """Kill one of two processes in training; return what the other one said."""
    with start(2, run) as running:
        running.wait_until(lambda: saved(run))
        running.processes[victim].send_signal(signal.SIGKILL)
        codes = running.codes(BOUND)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == _cluster.LOST, running.told()
    assert not (run / "results.json").exists()
    assert saved(run)
    return running.said(1 - victim)


def test_after_a_kill_all_go_on_to_the_same_bits(start, tmp_path, uninterrupted):
    run = tmp_path / "run"
    assert "Another process of this job is gone" in killed(start, run, 1)
    with start(2, run) as running:
        assert running.codes() == [0, 0], running.told()
    assert results(run) == results(uninterrupted)
    assert lines(run) == lines(uninterrupted)


def test_a_process_that_is_told_to_stop_takes_all_along(start, tmp_path):
    run, longer = tmp_path / "run", ("--steps", "2000")
    with start(2, run, *longer) as running:
        running.wait_until(lambda: saved(run))
        running.processes[1].send_signal(signal.SIGTERM)
        assert running.codes(BOUND) == [143, 143], running.told()
    assert "Stopped. What is done is saved" in running.said(0)
    assert "Stopped" not in running.said(1)
    assert 0 < saved(run)[-1] < 2000
    # what two processes began, one may end
    config = dataclasses.replace(CONFIG, steps=2000, run=Options(workdir=run))
    assert response.main(config).rows[2].values("accuracy") > 0.5
    assert lines(run, "student-distilled")[-1].startswith(
        '{"network": "student-distilled/lr0.01-seed0", "step": 2000'
    )


def test_four_processes_have_the_table_of_one(start, tmp_path):
    here = Options(workdir=tmp_path / "one")
    response.main(dataclasses.replace(CONFIG, steps=25, run=here))
    with start(4, tmp_path / "four", "--steps", "25") as running:
        assert running.codes() == [0, 0, 0, 0], running.told()
    of_one, of_four = (table(tmp_path / name) for name in ("one", "four"))
    for name, seeds in of_one.items():
        for one, other in zip(of_four[name], seeds, strict=True):
            assert one == pytest.approx(other, abs=1e-4), name


def test_bad_input_is_said_once_and_not_run_again(start, tmp_path):
    run = tmp_path / "run"
    (run / "of").mkdir(parents=True)
    with start(2, run) as running:
        assert running.codes(BOUND) == [2, 2], running.told()
    assert "holds files but no manifest.json" in running.said(0)
    assert "manifest" not in running.said(1)
    assert "Traceback" not in running.told()


@pytest.fixture
def fail(environment, tmp_path):
    """`fail(how, count)` runs a stand-in as a job of processes."""

    def started(how, count=2):
        command = ("-m", "tests.experiments.job_worker", "--how", how)
        run = ("--workdir", tmp_path / "run")
        return job(count, *command, *run, place=tmp_path, environment=environment)

    return started


def test_what_one_process_fails_of_ends_all_with_its_code(fail):
    with fail("disk") as running:
        assert running.codes(BOUND) == [2, 2], running.told()
    assert "the last process" in running.said(1)
    assert "the last process" not in running.said(0)
    assert "is gone" not in running.told()


def test_without_the_first_process_the_others_stop(fail):
    with fail("long") as running:
        running.wait_until(lambda: "ready" in running.said(1))
        running.processes[0].send_signal(signal.SIGKILL)
        assert running.codes(BOUND) == [-signal.SIGKILL, _cluster.LOST]
    assert "Another process of this job is gone" in running.said(1)


def test_a_job_of_one_process_is_stopped_like_any_other(fail):
    with fail("long", count=1) as running:
        running.wait_until(lambda: "ready" in running.said())
        running.processes[0].send_signal(signal.SIGTERM)
        assert running.codes(BOUND) == [143], running.told()
    assert "Stopped. What is done is saved" in running.said()
