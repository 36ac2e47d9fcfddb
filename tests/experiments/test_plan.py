"""What a plan says, and what flags for memory and speed do."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _options, _plan, _speed, response, sweep
from experiments._model import Model
from experiments._options import Mesh, Options
from experiments._workdir import Run

SMALL = response.Config(
    seeds=(1,),
    steps=4,
    teacher_steps=4,
    learning_rates=(0.01,),
    teacher=Model(width=16, depth=1),
    student=Model(width=8, depth=1),
)


@pytest.fixture
def plan(command, monkeypatch, tmp_path):
    """`plan(main, config, *flags)` returns the rows of its plan and all it said."""

    def run(main, config, *flags, devices=1):
        found = jax.devices()[:devices]
        monkeypatch.setattr(_options, "devices", lambda: found)
        code, out, err = command(main, config, "--plan", *flags)
        assert code == 0, err
        assert not [*tmp_path.rglob("*")], "a plan leaves nothing behind"
        table = out[out.index("──") :]
        cells = [re.split(r"  +", line) for line in table.splitlines()[1:] if line]
        return {row[0]: row[1:] for row in cells if len(row) == 8}, out

    return run


def size(cell):
    number, unit = cell.split()
    return float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20}[unit]


def test_memory_is_that_of_the_arrays(plan):
    rows, out = plan(response.main, SMALL)
    assert [*rows] == ["teacher", "student alone", "student distilled"]
    assert "On each of 1 x CPU" in out
    parameters = (64 * 8 + 8 + 8 * 10 + 10) * 4
    of_teacher = (64 * 16 + 16 + 16 * 10 + 10) * 4
    row = rows["student distilled"]
    assert size(row[0]) == pytest.approx(parameters, rel=0.05)
    assert size(row[1]) == pytest.approx(2 * parameters, rel=0.05)  # Adam's moments
    assert size(row[2]) == pytest.approx(of_teacher, rel=0.05)
    assert size(rows["teacher"][2]) == 0
    assert sum(map(size, row[:5])) == pytest.approx(size(row[5]), rel=0.05)
    # the student's gradient costs two more forwards, less that of its inputs
    forwards = 64 * 2 * (64 * 16 + 16 * 10 + 2 * 64 * 8 + 3 * 8 * 10)
    assert 0.9 * forwards < float(row[6]) < 1.5 * forwards


def test_a_mesh_cuts_it_and_a_heavy_teacher_is_named(plan):
    config = dataclasses.replace(SMALL, teacher=Model(width=512, depth=2))
    alone, out = plan(response.main, config)
    assert "The teacher is the largest part beside 'student alone'" in out
    assert "--teacher-dtype bfloat16" in out
    mesh = ("--mesh.data", "2", "--mesh.model", "4", "--mesh.least", "64")
    cut, out = plan(response.main, config, *mesh, devices=8)
    assert "On each of 8 x CPU" in out
    ratio = size(cut["student distilled"][2]) / size(alone["student distilled"][2])
    assert ratio == pytest.approx(1 / 4, rel=0.05)
    own = ("--teacher-dtype", "bfloat16", "--mesh.cut-teacher", "all")
    halved, _ = plan(response.main, config, *own, *mesh, devices=8)
    ratio = size(halved["student alone"][2]) / size(alone["student alone"][2])
    assert ratio == pytest.approx(1 / 16, rel=0.05)


def test_a_sweep_is_planned_as_one(plan):
    config = dataclasses.replace(
        sweep.SMOKE, teacher=SMALL.teacher, student=SMALL.student
    )
    rows, _ = plan(sweep.main, config)
    [name] = [name for name in rows if name != "teacher"]
    students = int(name.split()[0])
    assert size(rows[name][0]) == pytest.approx(students * 610 * 4, rel=0.05)


def test_only_a_plan_takes_cpus_for_what_is_not_there():
    mesh = Mesh(data=4, model=2)
    with pytest.raises(ValueError, match="at most the 1 devices"):
        mesh.shardings()
    assert mesh.shardings(plan=True).mesh.size == 8


@pytest.mark.parametrize(
    ("count", "said"), [(12, "12 B"), (1500, "1.5 KiB"), (3 * 2**40, "3.0 TiB")]
)
def test_amounts_are_said_as_people_read_them(count, said):
    assert _plan.amount(count) == said


def test_random_keys_do_not_count():
    state = {"key": jax.random.key(0), "w": jnp.zeros((4, 4), jnp.bfloat16)}
    assert _plan.per_device(state) == 32


def test_speed_is_found_without_a_pause_and_kept(tmp_path):
    config = dataclasses.replace(SMALL, run=Options(workdir=tmp_path / "run"))
    with Run("response", config) as run:
        speed = _speed.Speed(
            run, "one", every=2, examples=64, tokens=10, flops=lambda: 1 / 0
        )
        for step in range(1, 6):
            loss = jnp.zeros(()).block_until_ready()
            speed.see(step, {"loss": loss}, 1)
            with speed.pause():
                pass
    lines = (tmp_path / "run" / "speed" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == [3, 5]
    for line in found:
        ratio = line["tokens_per_second"] / line["examples_per_second"]
        assert ratio == pytest.approx(10)


def test_log_every_says_how_fast(command, tmp_path):
    flags = ("--log-every", "1", "--workdir", tmp_path / "run")
    config = dataclasses.replace(SMALL, steps=100)
    code, out, err = command(response.main, config, *flags)
    assert code == 0, err
    assert re.search(r"student-alone\S*, step \d+: [\d,]+ examples/s, [\d.]+ ms", out)
    assert (tmp_path / "run" / "speed" / "metrics.jsonl").exists()


def test_what_saves_memory_changes_results_little_or_not(tmp_path):
    def run(name, options=Options(), **changes):
        place = dataclasses.replace(options, workdir=tmp_path / name)
        config = dataclasses.replace(SMALL, run=place, steps=25, **changes)
        rows = response.main(config).rows
        return [row.values("negative_log_likelihood")[0] for row in rows]

    plain = run("plain")
    again = run("again", Options(remat=True), accumulate=4)
    np.testing.assert_allclose(again, plain, rtol=1e-4)
    half = run("half", teacher_dtype="bfloat16")
    np.testing.assert_allclose(half, plain, rtol=1e-2)
    assert half[:2] == plain[:2]  # neither the teacher nor the student alone
    assert half[2] != plain[2]


def test_parts_must_divide_the_batch(command):
    code, _, err = command(response.main, SMALL, "--accumulate", "5")
    assert code == 2
    assert "accumulate must divide the batch_size of 64, got 5" in err


def test_meshes_that_cannot_be_are_explained(command):
    code, _, err = command(response.main, SMALL, "--mesh.data", "3")
    assert code == 2
    assert "data=3 x model=1 must be at least 1 each and at most the 1" in err


def test_a_mesh_of_one_device_is_no_mesh():
    assert Mesh().shardings() is None
