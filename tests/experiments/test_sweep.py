"""The sweep as an ordinary call: its grid, its pictures, going on where it stopped."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import _sweep, sweep
from experiments._options import Options
from experiments._workdir import Interrupted, Run
from kdjax import report

SMALL = dataclasses.replace(
    sweep.SMOKE,
    temperature=(1.0, 4.0),
    alpha=(0.5,),
    learning_rates=(1e-3, 1e-2),
    steps=50,
    teacher_steps=50,
)


def at(directory, teachers=None, **changes):
    options = Options(workdir=directory, teacher_dir=teachers)
    return dataclasses.replace(SMALL, run=options, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep") / "run"
    return directory, sweep.main(at(directory))


def logged(directory):
    text = (directory / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["network"] == "sweep"]


def test_the_grid_has_every_setting_with_the_rate_chosen_on_validation(finished):
    _, grid = finished
    assert [row.name for row in grid.rows] == [
        "temperature 1, alpha 0.5",
        "temperature 4, alpha 0.5",
    ]
    for row in grid.rows:
        assert [seed["seed"] for seed in row.seeds] == [0, 1]
        assert len({seed["sha256"] for seed in row.seeds}) == 2
        assert all(0.1 < seed["accuracy"] <= 1 for seed in row.seeds)
        rate, tried = row.settings["learning_rate"], row.settings["tried"]
        assert {seed["rate"] for seed in row.seeds} == {rate}
        assert tried[f"{rate:g}"] == max(tried.values())
        found = np.mean([seed["validation_accuracy"] for seed in row.seeds])
        assert found == row.settings["validation_accuracy"]
    assert "8 students in one program" in "".join(grid.notes)


def test_the_run_leaves_everything_behind(finished):
    directory, grid = finished
    saved = json.loads((directory / "results.json").read_text())
    assert saved == json.loads(json.dumps(grid.json()))
    assert saved["best"] == grid.best.name
    rows = list(csv.DictReader((directory / "results.csv").read_text().splitlines()))
    assert [row["network"] for row in rows] == [
        row.name for row in grid.rows for _ in range(2)
    ]
    text = (directory / "report.md").read_text()
    assert "| temperature \\ alpha | 0.5 |" in text
    assert "![heatmap](heatmap.png)" in text
    assert (directory / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    lines = logged(directory)
    assert [line["step"] for line in lines] == [25, 50]
    member = "temperature=4,alpha=0.5,rate=0.01,seed=1"
    assert {f"{member}/loss", f"{member}/validation_accuracy"} <= set(lines[0])


def test_what_is_interrupted_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch):
    directory, _ = finished
    again = at(tmp_path / "run", teachers=directory / "teachers")
    look = _sweep.Sweep._log

    def signalled(self, *arguments):
        Run.stopping = True
        return look(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_sweep.Sweep, "_log", signalled)
        patch.setattr(Run, "stopping", False)
        with pytest.raises(Interrupted):
            sweep.main(again)
    assert list(tmp_path.glob("run/checkpoints/sweep/25/state"))
    assert not (tmp_path / "run" / "results.json").exists()
    sweep.main(again)
    for name in ("results.json", "results.csv", "report.md"):
        found = (tmp_path / "run" / name).read_bytes()
        assert found == (directory / name).read_bytes()
    assert logged(tmp_path / "run") == logged(directory)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"temperature": (1.0, 0.0)}, "temperature must be > 0, got 0.0"),
        ({"alpha": (0.5, 1.5)}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"temperature": ()}, "temperature must be at least one"),
        ({"alpha": (0.5, 0.5)}, "all different, got"),
        ({"learning_rates": (-1.0,)}, "learning_rates must be > 0"),
    ],
)
def test_wrong_settings_leave_no_directory_behind(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        sweep.main(at(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def cell(down, across, test, validation):
    seeds = [{"seed": n, "accuracy": test + n / 100} for n in range(2)]
    place = {"T": down, "w": across, "validation_accuracy": validation}
    return report.Row(f"T {down}, w {across}", seeds, {}, place)


def test_the_best_is_chosen_on_validation_never_on_test(tmp_path):
    cells = [cell(1, 0.5, 0.9, 0.7), cell(1, 1, 0.6, 0.8), cell(2, 0.5, 0.8, 0.8)]
    rows = [*cells, cell(2, 1, 0.5, 0.1)]
    grid = report.Grid("Title", rows, notes=["A note."], down="T", across="w")
    assert grid.best.name == "T 1, w 1"
    assert grid.cells() == [
        ["T \\ w", "0.5", "1"],
        ["1", "90.50 ± 0.71", "* 60.50 ± 0.71"],
        ["2", "80.50 ± 0.71", "50.50 ± 0.71"],
    ]
    sentence, note = grid.sentences()
    assert "of 4 settings, T 1, w 1 is best on the validation split (80.00 %)" in (
        sentence
    )
    assert sentence.endswith("on the test split it has 60.50 ± 0.71 %.")
    assert note == "A note."
    assert "* 60.50" in grid.text()
    report.plot_heatmap(tmp_path / "grid.png", grid)
    assert (tmp_path / "grid.png").stat().st_size > 5000
