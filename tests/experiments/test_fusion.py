"""A student and its teacher together: table, curve, and how settings are chosen."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from experiments import _fusion, fusion
from experiments._fusion import CASCADE, WAYS, Said, cheapest, chosen, most_accurate
from experiments._options import Options
from kdjax import report, train

SMALL = dataclasses.replace(
    fusion.SMOKE,
    steps=25,
    teacher_steps=25,
    weights=(0.2, 0.8),
    thresholds=(0.0, 0.3, 0.6, 1.0),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fusion") / "run"
    config = dataclasses.replace(SMALL, run=Options(workdir=directory))
    return config, fusion.main(config)


def test_every_way_to_answer_is_a_row_with_its_cost(finished):
    _, result = finished
    student, teacher, *together = result.rows
    names = ["student", "teacher", "probabilities", "logits", "cascade"]
    assert [row.name for row in result.rows] == names
    for row in together:
        assert row.cost["parameters"] == 1_210 + teacher.cost["parameters"]
        for seed in row.seeds:
            assert 0.1 < seed["accuracy"] <= 1
            assert seed["negative_log_likelihood"] > 0
            assert 0 <= seed["calibration_error"] <= 1
    both = student.cost["flops"] + teacher.cost["flops"]
    assert [row.cost["flops"] for row in together[:2]] == [both, both]
    asked = together[2].values("asked").mean()
    expected = student.cost["flops"] + asked * teacher.cost["flops"]
    assert together[2].cost["flops"] == pytest.approx(expected)
    assert [seed["seed"] for seed in together[2].seeds] == [0, 1]


def test_settings_are_among_those_tried(finished):
    _, result = finished
    for way, row in zip(WAYS, result.rows[2:], strict=True):
        assert set(row.values(way.setting)) <= set(getattr(SMALL, f"{way.setting}s"))


def test_gains_are_over_the_teacher_and_the_student(finished):
    _, result = finished
    pairs = [(gain.better, gain.than) for gain in result.gains]
    ways = [(way.name, "teacher") for way in WAYS]
    assert pairs == [*ways, ("cascade", "student")]
    teacher, probabilities = (result.rows[k].values("accuracy") for k in (1, 2))
    assert result.gains[0].mean == pytest.approx((probabilities - teacher).mean())


def test_the_curve_goes_from_the_student_to_the_teacher(finished):
    _, result = finished
    student, teacher, *_ = result.rows
    first, last = result.curve[0], result.curve[-1]
    for figure in ("accuracy", "negative_log_likelihood", "calibration_error"):
        assert first.values(figure) == pytest.approx(student.values(figure), abs=1e-6)
        assert last.values(figure) == pytest.approx(
            teacher.values(figure).repeat(2), abs=1e-6
        )
    costs = [row.cost["flops"] for row in result.curve]
    assert costs == sorted(costs)
    assert costs[0] == student.cost["flops"]
    assert costs[-1] == student.cost["flops"] + teacher.cost["flops"]


def test_the_run_leaves_table_numbers_and_picture(finished):
    config, result = finished
    directory = config.run.workdir
    saved = json.loads((directory / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.json()))
    assert [row["name"] for row in saved["curve"]][1] == "threshold 0.3"
    text = (directory / "report.md").read_text()
    assert "![tradeoff](tradeoff.png)" in text
    assert text.count("| threshold ") == 4
    assert "mean FLOPs" in text
    assert "of equals the one with the lowest NLL" in text
    assert (directory / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert "ECE %" in result.text()


def test_done_students_are_not_trained_again(finished, monkeypatch):
    config, result = finished
    monkeypatch.setattr(train, "run", None)
    again = fusion.main(config)
    assert [row.seeds for row in again.rows] == [row.seeds for row in result.rows]
    assert [row.seeds for row in again.curve] == [row.seeds for row in result.curve]


@pytest.fixture
def said():
    random = np.random.default_rng(0)
    labels = random.integers(5, size=40).astype(np.int32)
    student, teacher = random.normal(size=(2, 40, 5)).astype(np.float32)
    teacher[np.arange(40), labels] += 1.5
    return Said(student, teacher, labels)


def by_hand(way, said, setting):
    """Log-probabilities and the share asked, in NumPy."""
    if way.name == "logits":
        mean = setting * said.student + (1 - setting) * said.teacher
        return log_softmax(mean, -1), 1
    ours, theirs = softmax(said.student, -1), softmax(said.teacher, -1)
    if way.name == "probabilities":
        return np.log(setting * ours + (1 - setting) * theirs), 1
    asked = ours.max(-1) < setting
    return np.log(np.where(asked[:, None], theirs, ours)), asked.mean()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_figures_are_those_of_the_formulas(way, said):
    found = _fusion.figures(way, said, 0.4)
    log_probs, asked = by_hand(way, said, 0.4)
    right = log_probs.argmax(-1) == said.labels
    assert found["accuracy"] == right.mean()
    assert found["asked"] == pytest.approx(asked)
    likelihood = -log_probs[np.arange(40), said.labels].mean()
    assert found["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-5)


def tried(*rows):
    names = ("accuracy", "negative_log_likelihood", "asked")
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_averages_are_chosen_by_accuracy_then_likelihood():
    rows = tried((0.8, 0.1, 1), (0.9, 0.5, 1), (0.9, 0.4, 1))
    assert most_accurate(rows, 0.95) is rows[2]


def test_cascades_are_chosen_by_cost_among_those_as_good_as_the_teacher():
    rows = tried((0.8, 0.1, 0.0), (0.91, 0.5, 0.2), (0.95, 0.4, 0.7), (0.9, 0.3, 1.0))
    assert cheapest(rows, 0.9) is rows[1]
    assert cheapest(rows, 0.93) is rows[2]
    assert cheapest(rows, 0.99) is rows[2]  # none is as good


def test_the_threshold_is_the_cheapest_that_reaches_the_teacher(said):
    thresholds = tuple(np.linspace(0, 1, 21))
    found = chosen(CASCADE, said, thresholds)
    teacher = (said.teacher.argmax(-1) == said.labels).mean()

    def accuracy(threshold):
        log_probs, _ = by_hand(CASCADE, said, threshold)
        return (log_probs.argmax(-1) == said.labels).mean()

    good = [threshold for threshold in thresholds if accuracy(threshold) >= teacher]
    assert accuracy(found) >= teacher
    asked = [by_hand(CASCADE, said, threshold)[1] for threshold in good]
    assert by_hand(CASCADE, said, found)[1] == min(asked)


def test_one_seed_draws_too(finished, tmp_path):
    _, result = finished
    first = [dataclasses.replace(row, seeds=row.seeds[:1]) for row in result.rows]
    curve = [dataclasses.replace(row, seeds=row.seeds[:1]) for row in result.curve]
    one = dataclasses.replace(result, rows=first, curve=curve)
    report.plot_tradeoff(tmp_path / "one.png", one)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--weights", "1.5"], "weights must be in [0, 1], got 1.5"),
        (["--thresholds", "0.5", "-1"], "thresholds must be in [0, 1], got -1.0"),
        (["--thresholds"], "thresholds must be at least one"),
        (["--temperature", "0"], "temperature must be > 0"),
    ],
)
def test_what_cannot_be_is_refused(command, flags, says, tmp_path):
    code, _, err = command(fusion.main, SMALL, *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
