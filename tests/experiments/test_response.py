"""The experiment as an ordinary call, and what it leaves behind."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import _fit, response
from experiments._model import Model
from experiments._options import Options
from experiments._workdir import Interrupted, Run, RunError

SMALL = dataclasses.replace(
    response.SMOKE, seeds=(2,), steps=50, teacher_steps=50, learning_rates=(1e-3, 1e-2)
)


def at(directory, **changes):
    return dataclasses.replace(SMALL, run=Options(workdir=directory), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("response") / "run"
    return directory, response.main(at(directory))


def test_the_table_has_the_three_rows_with_all_figures(finished):
    _, result = finished
    names = ["teacher", "student alone", "student distilled"]
    assert [row.name for row in result.rows] == names
    for row in result.rows:
        assert {"parameters", "bytes", "flops", "latency"} == set(row.cost)
        for seed in row.seeds:
            assert 0.1 < seed["accuracy"] <= 1
            assert 0 <= seed["agreement"] <= 1
            assert 0 <= seed["calibration_error"] <= 1
            assert seed["negative_log_likelihood"] > 0
            assert len(seed["sha256"]) == 64
    teacher, alone, distilled = result.rows
    assert teacher.cost["parameters"] == 65 * 256 + 257 * 256 + 257 * 10
    assert alone.cost["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert distilled.cost["flops"] == alone.cost["flops"] < teacher.cost["flops"]
    assert [seed["seed"] for seed in alone.seeds] == [0, 1]


def test_the_gain_is_paired_by_seed(finished):
    _, result = finished
    _, alone, distilled = result.rows
    difference = distilled.values("accuracy") - alone.values("accuracy")
    (gain,) = result.gains
    assert gain.mean == pytest.approx(difference.mean())
    half = 12.7062047 * difference.std(ddof=1) / math.sqrt(2)  # t, 1 degree of freedom
    assert gain.high - gain.mean == pytest.approx(half, rel=1e-6)
    assert gain.sentence().startswith("student distilled − student alone, same seed")


def test_rates_are_chosen_on_validation_with_equal_budgets(finished):
    _, result = finished
    for row in result.rows[1:]:
        tried = row.settings["tried"]
        assert len(tried) == 4
        means = {}
        for rate in SMALL.learning_rates:
            found = [t for t in tried if f"lr{rate:g}-" in t["network"]]
            means[rate] = np.mean([t["validation_accuracy"] for t in found])
        assert row.settings["learning_rate"] == max(means, key=means.get)


def test_every_trained_network_ends_apart(finished):
    _, result = finished
    _, alone, distilled = result.rows
    pairs = zip(alone.seeds, distilled.seeds, strict=True)
    assert all(one["sha256"] != other["sha256"] for one, other in pairs)
    assert len({seed["sha256"] for seed in alone.seeds}) == 2


def test_the_run_leaves_everything_behind(finished):
    directory, result = finished
    names = {path.name for path in directory.iterdir()}
    assert names >= {
        *("manifest.json", "metrics.jsonl", "results.json", "results.csv"),
        *("report.md", "curves.png", "size.png", "checkpoints", "tensorboard"),
    }
    saved = json.loads((directory / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.json()))
    rows = list(csv.DictReader((directory / "results.csv").read_text().splitlines()))
    assert [row["network"] for row in rows] == [
        *["teacher"], *["student alone"] * 2, *["student distilled"] * 2
    ]  # fmt: skip
    assert float(rows[1]["accuracy"]) == result.rows[1].seeds[0]["accuracy"]
    report = (directory / "report.md").read_text()
    assert report.count("\n| ") == 5
    assert result.gains[0].sentence() in report
    events = list(directory.glob("tensorboard/student-distilled/*/events*"))
    assert len(events) == 4
    for picture in ("curves.png", "size.png"):
        assert (directory / picture).read_bytes().startswith(b"\x89PNG")


def test_metrics_are_logged_ten_times_with_every_term(finished):
    directory, _ = finished
    text = (directory / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    one = [x for x in lines if x["network"] == "student-distilled/lr0.01-seed1"]
    assert [x["step"] for x in one] == [25, 50]
    assert {"soft", "hard", "loss", "gradient_norm", "skipped"} <= set(one[0])
    assert one[0]["loss"] == pytest.approx(one[0]["soft"] + one[0]["hard"], rel=1e-5)
    assert "validation_accuracy" in one[0]


def test_checkpoints_of_students_hold_no_teacher(finished):
    directory, _ = finished
    saved = directory / "checkpoints" / "student-distilled" / "lr0.01-seed1"
    (beside,) = saved.glob("*/extra/metadata")
    shapes = json.loads(beside.read_text())["shapes"]
    params = {
        name: shape for name, shape in shapes.items() if name.startswith("params/")
    }
    assert sorted(params.values()) == [
        *("float32[10]", "float32[16, 10]", "float32[16]", "float32[64, 16]")
    ]
    assert not any("256" in shape for shape in shapes.values())


def test_the_same_config_gives_the_same_bits_elsewhere(finished, tmp_path):
    _, result = finished
    again = response.main(at(tmp_path / "other"))
    for one, other in zip(result.rows, again.rows, strict=True):
        assert one.seeds == other.seeds


def test_finished_rows_are_kept_and_damaged_ones_made_again(finished, tmp_path, capsys):
    directory, result = finished
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / "checkpoints" / "student-alone")
    (copy / "rows" / "student distilled.json").write_text("{half")
    again = response.main(at(copy))
    assert "The row 'student distilled' is damaged" in capsys.readouterr().out
    assert [row.seeds for row in again.rows] == [row.seeds for row in result.rows]
    assert not (copy / "checkpoints" / "student-alone").exists()


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    directory, _ = finished
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(RunError) as caught:
        response.main(at(directory, temperature=3.0, student=Model(width=9)))
    message = str(caught.value)
    assert "temperature: there 2.0, here 3.0" in message
    assert "student.width: there 16, here 9" in message
    assert "steps" not in message
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="holds files but no manifest"):
        response.main(at(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_names_of_sets_make_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run("response", dataclasses.replace(SMALL, dataset="cmaterdb/bangla"))
    assert run.directory.parent == Path("runs")
    assert run.teachers == Path("runs/teachers")


def test_what_a_process_killed_at_its_start_leaves_is_no_obstacle(tmp_path):
    for name in (".lock", ".manifest.json.tmp"):
        (tmp_path / name).write_text("half")
    with Run("response", at(tmp_path)) as run:
        assert run.manifest["config"]["steps"] == 50
    assert (tmp_path / "manifest.json").exists()


def test_a_signal_during_the_look_at_validation_still_saves(tmp_path, monkeypatch):
    look = _fit.Fit._log

    def signalled(self, *arguments):
        Run.stopping = True
        return look(self, *arguments)

    monkeypatch.setattr(_fit.Fit, "_log", signalled)
    monkeypatch.setattr(Run, "stopping", False)
    with pytest.raises(Interrupted):
        response.main(at(tmp_path))
    assert list(tmp_path.glob("teachers/*/training/25/state"))
    assert not Run.stepping


def test_a_run_does_not_go_on_with_another_teacher(finished, tmp_path):
    directory, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["pinned"]["teacher"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"started with other teacher \(0000"):
        response.main(at(copy))


def test_teachers_are_reused_when_all_matches_and_only_then(finished, tmp_path, capsys):
    directory, result = finished
    options = Options(workdir=tmp_path / "a", teacher_dir=directory / "teachers")
    shared = dataclasses.replace(SMALL, run=options, temperature=3.0)
    again = response.main(shared)
    assert "Teacher: reused from" in capsys.readouterr().out
    assert again.rows[0].seeds == result.rows[0].seeds
    options = dataclasses.replace(options, workdir=tmp_path / "b")
    response.main(dataclasses.replace(shared, run=options, teacher_steps=75))
    said = capsys.readouterr().out
    assert "none of the 1 saved ones matches" in said
    assert "recipe.steps: saved 50, wanted 75" in said
    assert len(list((directory / "teachers").iterdir())) == 2


def test_a_damaged_teacher_is_trained_again(finished, tmp_path, capsys):
    directory, result = finished
    teachers = tmp_path / "teachers"
    shutil.copytree(directory / "teachers", teachers)
    for manifest in teachers.glob("*/variables/0/state/manifest.ocdbt"):
        manifest.write_bytes(b"")
    options = Options(workdir=tmp_path / "run", teacher_dir=teachers)
    again = response.main(dataclasses.replace(SMALL, run=options))
    assert "cannot be read" in capsys.readouterr().out
    assert again.rows[0].seeds == result.rows[0].seeds


def test_a_teacher_of_an_earlier_run_can_be_named(finished, tmp_path, capsys):
    directory, result = finished
    (folder,) = [p for p in (directory / "teachers").iterdir() if _steps(p) == 50]
    again = response.main(at(tmp_path / "run", teacher_from=folder))
    assert f"Teacher: from {folder}" in capsys.readouterr().out
    assert again.rows[0].seeds == result.rows[0].seeds
    about = json.loads((folder / "about.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "about.json").write_text(json.dumps({**about, "classes": 7}))
    with pytest.raises(RunError, match="with classes 7, but digits has 10"):
        response.main(at(tmp_path / "run2", teacher_from=copy))
    with pytest.raises(RunError, match="no teacher in"):
        response.main(at(tmp_path / "run3", teacher_from=tmp_path / "nowhere"))


def _steps(folder):
    return json.loads((folder / "about.json").read_text())["recipe"]["steps"]


def test_resnets_by_flag(tmp_path):
    config = at(
        tmp_path / "run",
        student=Model(model="resnet"),
        teacher=Model(width=8, depth=1),
        steps=2,
        teacher_steps=2,
        seeds=(1,),
        learning_rates=(0.1,),
        batch_size=8,
        optimizer="sgd",
        augment=("shift", "flip"),
    )
    result = response.main(config)
    resnet8_of_10_classes_and_1_channel = 83_892 - 2 * 16 * 9 - 90 * 65
    found = result.rows[1].cost["parameters"]
    assert found == resnet8_of_10_classes_and_1_channel
