"""How a process learns that it is one of several, and who of them speaks."""

import pytest
from jax.errors import JaxRuntimeError

from experiments import _cluster, _pace
from kdjax import processes

BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "first:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (SLURM, {}),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        # a batch script without srun is one process, however many tasks the job has
        ({n: x for n, x in SLURM.items() if n != "SLURM_STEP_NODELIST"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, {}),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, {}),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_schedulers_are_detected(variables, expected):
    assert _cluster.found(variables) == expected


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 3),
        ({"JAX_PROCESS_ID": None, "JOB_COMPLETION_INDEX": "2"}, 2),  # Kubernetes
        ({"JAX_PROCESS_ID": None, "SLURM_PROCID": "1"}, 1),
    ],
)
def test_what_is_said_by_hand_comes_first(changes, number):
    everything = {**SLURM, **BY_HAND, **changes}
    told = {name: value for name, value in everything.items() if value is not None}
    if "SLURM_PROCID" not in changes:
        told.pop("SLURM_PROCID")
    assert _cluster.found(told) == {
        "coordinator_address": "first:8476",
        "num_processes": 4,
        "process_id": number,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize("missing", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_half_of_it_is_explained(missing):
    told = {name: value for name, value in BY_HAND.items() if name != missing}
    with pytest.raises(ValueError, match=f"but {missing} is not set"):
        _cluster.found(told)


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({**SLURM, "SLURM_PROCID": "0"}, True),
        (SLURM, False),
        (BY_HAND, False),
        ({**BY_HAND, "JAX_PROCESS_ID": "0", "JOB_COMPLETION_INDEX": "1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, False),
        # a number among others that have nothing to do with it
        ({"JOB_COMPLETION_INDEX": "1"}, True),
        ({"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "first:8476"}, True),
    ],
)
def test_the_first_one_speaks(variables, first):
    assert _cluster.is_first(variables) == first


def test_errors_of_a_single_process_are_its_own():
    assert not _cluster.is_lost(JaxRuntimeError("Gloo all-reduce failed"))


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection reset by peer", True),
        ("NCCL operation failed: unhandled system error", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("RESOURCE_EXHAUSTED: out of memory", False),
        ("config: steps must be positive", False),
    ],
)
def test_what_a_lost_process_looks_like(monkeypatch, text, lost):
    monkeypatch.setattr(processes, "several", lambda: True)
    assert _cluster.is_lost(JaxRuntimeError(text)) == lost
    assert not _cluster.is_lost(OSError(text))
    wrapped = RuntimeError("cannot write a checkpoint")
    wrapped.__cause__ = JaxRuntimeError(text)
    assert _cluster.is_lost(wrapped) == lost


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(_pace.time, "monotonic", lambda: now[0])
    return now


def test_one_process_looks_at_its_clock(clock):
    pace = _pace.Pace(20.0, 0)
    clock[0] = 19.9
    assert not pace.is_over(1)
    clock[0] = 20.0
    assert pace.is_over(2)
    pace.reset(2)
    assert not pace.is_over(3)


def test_several_look_at_the_clock_of_the_first_and_seldom(clock, monkeypatch):
    asked = []

    def agreed(value):
        asked.append(value)
        return value

    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "agreed", agreed)
    pace, over = _pace.Pace(20.0, 0), []
    for step in range(1, 4001):  # a hundredth of a second each
        clock[0] = 0.01 * step
        if pace.is_over(step):
            over.append(step)
            pace.reset(step)
    assert len(over) == 1
    assert 2000 <= over[0] <= 2600
    assert len(asked) < 40
