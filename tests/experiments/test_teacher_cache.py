"""Students of what a teacher said: without it, the same figures, clear refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments import _cached, _fit, _teacher, response
from experiments._model import Model
from experiments._options import Options
from experiments._workdir import Interrupted, Run
from kdjax.teachers import cache

SMALL = dataclasses.replace(response.SMOKE, seeds=(1,), steps=50, teacher_steps=25)


def at(directory, told, **changes):
    run = Options(workdir=directory)
    return dataclasses.replace(SMALL, run=run, teacher_cache=told, **changes)


def no_teacher(*_, **__):
    raise AssertionError("the teacher is not needed")


def figures(result):
    return [(row.name, row.seeds) for row in result.rows]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cached")
    return directory / "told", response.main(at(directory / "run", directory / "told"))


@pytest.fixture
def copied(filled, tmp_path):
    shutil.copytree(filled[0], tmp_path / "told")
    return tmp_path / "told"


def test_the_second_run_has_no_teacher_and_the_same_table(
    filled, tmp_path, monkeypatch, capsys
):
    told, result = filled
    monkeypatch.setattr(_teacher, "of", no_teacher)
    again = response.main(at(tmp_path / "run", told))
    assert f"Teacher: what it said lies in {told}" in capsys.readouterr().out
    assert figures(again) == figures(result)
    assert again.rows[0] == result.rows[0]  # costs, too
    assert result.rows[0].cost["parameters"] == 65 * 256 + 257 * 256 + 257 * 10
    assert not (tmp_path / "run" / "teachers").exists()
    assert "as it was when its answers were stored" in again.text()


def test_students_are_as_good_as_with_the_teacher(filled, tmp_path):
    _, result = filled
    live = response.main(at(tmp_path / "run", None))
    assert live.rows[0].seeds == result.rows[0].seeds
    for one, other in zip(live.rows, result.rows, strict=True):
        for figure in ("accuracy", "agreement"):
            assert one.values(figure) == pytest.approx(other.values(figure), abs=3e-3)
        figure = "negative_log_likelihood"
        assert one.values(figure) == pytest.approx(other.values(figure), rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--teacher-steps", "60"], ["teacher.recipe.steps: saved 25, expected 60"]),
        (
            ["--augment", "shift", "--teacher-views", "3"],
            ["views: saved 1, expected 3", "random_shift(pixels=1)"],
        ),
    ],
)
def test_what_another_teacher_said_is_refused(command, filled, flags, names):
    config = dataclasses.replace(SMALL, teacher_cache=filled[0])
    code, _, err = command(response.main, config, *flags)
    assert code == 2
    assert "is a cache of something else" in err
    assert "Choose another folder" in err
    assert "Traceback" not in err
    for name in names:
        assert name in err


def test_another_data_set_is_named(filled, tmp_path):
    told, _ = filled
    config, task = at(tmp_path / "run", told).checked(), SMALL.load()
    image = task.test["image"].copy()
    image[0, 0, 0] += 1
    changed = dataclasses.replace(task, test={**task.test, "image": image})
    store = _cached._Store(Run("response", config), config, changed)
    with pytest.raises(ValueError, match=r"teacher\.data: saved"):
        store.read()


def test_damaged_files_are_named_with_the_cure(command, copied):
    place = copied / "train" / "teacher" / "log_probs.npy"
    content = bytearray(place.read_bytes())
    content[-5] ^= 1
    place.write_bytes(content)
    config = dataclasses.replace(SMALL, teacher_cache=copied)
    code, _, err = command(response.main, config)
    assert code == 2
    assert f"{place} is damaged" in err
    assert f"delete {copied / 'train'} and start again" in err
    assert "Traceback" not in err


def test_what_is_missing_is_made_again(copied, tmp_path, capsys):
    config = at(tmp_path / "run", copied).checked()
    store = _cached._Store(Run("response", config), config, config.load())
    row, told = store.read()
    assert row.name == "teacher"
    assert set(told.splits) == {"train", "validation", "test"}
    row_of_another = {"teacher": "0" * 64, "row": dataclasses.asdict(row)}
    (copied / "teacher.json").write_text(json.dumps(row_of_another))
    assert store.read() is None
    (copied / "teacher.json").write_text("{half")
    assert store.read() is None
    assert "teacher.json is damaged; making it again" in capsys.readouterr().out
    shutil.rmtree(copied / "train")
    assert store.read() is None


def test_stopped_while_writing_goes_on(filled, command, tmp_path, monkeypatch):
    _, result = filled
    write, told = cache.write, tmp_path / "told"

    def stopped(directory, *arguments, **settings):
        if directory.name == "validation":
            raise KeyboardInterrupt
        return write(directory, *arguments, **settings)

    config = at(tmp_path / "run", told)
    monkeypatch.setattr(cache, "write", stopped)
    code, _, err = command(response.main, config)
    assert code == 130
    assert "the same command goes on from there" in err
    assert (told / "train" / "cache.json").exists()
    assert not (told / "teacher.json").exists()
    monkeypatch.setattr(cache, "write", write)
    assert figures(response.main(config)) == figures(result)


def test_stopped_in_training_goes_on_without_the_teacher(filled, tmp_path, monkeypatch):
    told, result = filled
    look, config = _fit.Fit._log, at(tmp_path / "run", told)

    def signalled(self, name, *arguments):
        Run.stopping = "distilled" in name
        return look(self, name, *arguments)

    monkeypatch.setattr(_teacher, "of", no_teacher)
    monkeypatch.setattr(_fit.Fit, "_log", signalled)
    monkeypatch.setattr(Run, "stopping", False)
    with pytest.raises(Interrupted):
        response.main(config)
    monkeypatch.setattr(_fit.Fit, "_log", look)
    monkeypatch.setattr(Run, "stopping", False)
    assert figures(response.main(config)) == figures(result)


def test_augmented_images_are_stored_in_several_views(tmp_path):
    told, changes = tmp_path / "told", {"augment": ("shift",), "teacher_views": 2}
    config = at(tmp_path / "run", told, **changes, teacher=Model(width=8, depth=1))
    result = response.main(config)
    assert [row.name for row in result.rows][1:] == [
        *("student alone", "student distilled")
    ]
    stored = cache.read(told / "train")
    assert stored.views == 2
    one, other = stored.arrays["teacher/log_probs"]
    assert np.abs(one - other).max() > 0.01
    assert cache.read(told / "test").views == 1


def test_how_many_views_there_are():
    told = {"teacher_cache": "told"}
    assert SMALL.checked().teacher_views is None
    assert dataclasses.replace(SMALL, **told).checked().teacher_views == 1
    augmented = dataclasses.replace(SMALL, **told, augment=("shift",))
    assert augmented.checked().teacher_views == 8


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--teacher-views", "3"], "say where with --teacher-cache"),
        (["--teacher-cache", "x", "--teacher-views", "3"], "must be 1 without"),
        (["--teacher-cache", "x", "--teacher-views", "0"], "must be > 0, got 0"),
    ],
)
def test_views_that_cannot_be(command, flags, says, tmp_path):
    code, _, err = command(response.main, SMALL, *flags)
    assert code == 2
    assert says in err
    assert not (tmp_path / "runs").exists()
