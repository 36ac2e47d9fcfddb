"""Tables, gains, logs and the manifest."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from kdjax import report
from kdjax.report.plots import _compared_with


def row(name, accuracies, parameters=10):
    seeds = [
        {
            "seed": n,
            "network": f"{name}{n}",
            "accuracy": a,
            "agreement": 0.5,
            "calibration_error": 0.01,
            "negative_log_likelihood": 0.1 * n,
            "sha256": f"{n}",
        }
        for n, a in enumerate(accuracies)
    ]
    cost = {
        "parameters": parameters,
        "bytes": 4 * parameters,
        "flops": 7,
        "latency": 2e-5,
    }
    return report.Row(name, seeds, cost)


@pytest.fixture
def result():
    rows = [row("teacher", [0.95], 1000), row("a", [0.8, 0.9]), row("b", [0.85, 0.97])]
    return report.Result(
        "Title", rows, [report.paired_gain(rows[2], rows[1])], ["Note."]
    )


def test_gain_equals_the_paired_t_test():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(size=8), rng.uniform(size=8)
    gain = report.paired_gain(row("b", one), row("a", other))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.mean == pytest.approx((one - other).mean())


@pytest.mark.parametrize(
    ("better", "verdict"),
    [
        ([0.91, 0.92, 0.93], "it helps"),
        ([0.71, 0.72, 0.70], "it HURTS"),
        ([0.81, 0.70, 0.95], "no gain is shown"),
        ([0.9], "run more with --seeds"),
    ],
)
def test_the_sentence_says_what_it_is(better, verdict):
    than = [0.80, 0.81, 0.82][: len(better)]
    gain = report.paired_gain(row("b", better), row("a", than))
    assert verdict in gain.sentence()
    assert (gain.low is None) == (len(better) == 1)


def test_gains_need_the_same_seeds():
    with pytest.raises(ValueError, match=r"seeds differ: \[0, 1\] and \[0\]"):
        report.paired_gain(row("b", [0.1, 0.2]), row("a", [0.1]))


def test_cells_hold_mean_and_std(result):
    headings, teacher, a, _ = result.cells()
    assert headings[:2] == ["network", "accuracy %"]
    assert teacher[1] == "95.00"
    assert a[1] == f"85.00 ± {100 * np.std([0.8, 0.9], ddof=1):.2f}"
    assert a[headings.index("latency µs")] == "20.0"
    assert teacher[headings.index("parameters")] == "1,000"


def test_text_fits_the_console_or_is_turned(result):
    wide, narrow = result.text(200), result.text(80)
    assert "Note." in wide
    assert "Note." in narrow
    table = narrow.splitlines()[2:11]
    assert max(map(len, table)) <= 80
    assert table[0].split()[0] == "network"
    assert table[2].startswith("accuracy %")
    assert wide.splitlines()[2].split()[1] == "accuracy"


def test_a_table_of_many_networks_is_not_turned_into_a_wider_one():
    rows = [row(f"network {number}", [0.8, 0.9]) for number in range(20)]
    text = report.Result("Title", rows).text(80)
    assert text.splitlines()[2].split()[:2] == ["network", "accuracy"]


def test_markdown_and_csv_hold_every_row(result):
    text = result.markdown()
    assert text.startswith("### Title\n")
    assert text.count("\n| ") == 5
    lines = result.csv().splitlines()
    assert lines[0].startswith("network,seed,accuracy")
    assert [line.split(",")[0] for line in lines[1:]] == ["teacher", "a", "a", "b", "b"]
    assert (
        json.loads(json.dumps(result.json()))["rows"][1]["seeds"][1]["accuracy"] == 0.9
    )


def test_log_rewinds_and_survives_a_cut_line(tmp_path):
    log = report.MetricLog(tmp_path)
    for step in (1, 2, 3):
        log.write("a", step, {"loss": 1 / step})
        log.write("b", step, {"loss": 2 / step})
    log.close()
    whole = log.path.read_text()
    with log.path.open("a") as file:
        file.write('{"network": "a", "st')
    assert len(log.read()) == 6
    log.rewind("a", 1)
    assert [x["step"] for x in log.read("a")] == [1]
    assert [x["step"] for x in log.read("b")] == [1, 2, 3]
    for step in (2, 3):
        log.write("a", step, {"loss": 1 / step})
    log.close()
    assert sorted(log.path.read_text().splitlines()) == sorted(whole.splitlines())
    assert log.read("a")[2]["loss"] == 1 / 3


def test_events_are_rebuilt_from_the_lines(tmp_path):
    log = report.MetricLog(tmp_path)
    for step in (1, 2):
        log.write("a/x", step, {"loss": 1 / step})
    log.close()
    (whole,) = tmp_path.glob("tensorboard/a/x/events*")
    events = whole.read_bytes().count(b"loss")
    assert events == 2
    whole.write_bytes(b"")  # what a killed process leaves
    log = report.MetricLog(tmp_path)
    log.rewind("a/x", 1)
    log.write("a/x", 2, {"loss": 0.5})
    log.close()
    (again,) = tmp_path.glob("tensorboard/a/x/events*")
    assert again.read_bytes().count(b"loss") == events


def test_an_empty_log_reads_empty(tmp_path):
    log = report.MetricLog(tmp_path)
    log.rewind("a", 3)
    assert log.read() == []
    log.close()


def test_this_process_is_described():
    about = report.about_this_process()
    assert about["versions"]["jax"]
    assert about["device"].startswith("cpu")
    json.dumps(about)


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    report.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        loop = {}
        loop["loop"] = loop
        report.write_json(path, loop)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_pictures_are_drawn(tmp_path, result):
    curves = {name: [[(1, 0.5), (2, 0.7)]] * 2 for name in "ab"}
    report.plot_curves(tmp_path / "c.png", result, curves)
    report.plot_accuracy_against_size(tmp_path / "s.png", result)
    for name in ("c.png", "s.png"):
        assert len((tmp_path / name).read_bytes()) > 5000


@pytest.fixture
def comparison(result):
    columns = ("accuracy", "gain", "agreement")
    rows = [dataclasses.replace(r, settings={"family": r.name[0]}) for r in result.rows]
    return report.Result("Title", rows, columns=columns, baseline="a")


def test_gains_are_a_column_measured_from_the_baseline(comparison):
    table = comparison.cells()
    assert table[0] == ["network", "accuracy %", "gain", "agreement %"]
    assert [line[2] for line in table[1:]] == ["", "", "+6.00 ± 12.71"]


def test_a_gain_is_positive_where_it_is_better(comparison):
    rows = [
        report.Row(row.name, [{**s, "rmse": s["accuracy"]} for s in row.seeds], {})
        for row in comparison.rows
    ]
    columns = ("rmse", "gain")
    result = dataclasses.replace(
        comparison, rows=rows, columns=columns, figure="rmse", baseline="a"
    )
    gain = report.paired_gain(rows[-1], rows[-2], "rmse")
    assert gain.mean > 0
    assert result.cells()[-1][2].startswith("-")


def test_the_comparison_is_drawn(comparison, tmp_path):
    report.plot_comparison(tmp_path / "all.png", comparison)
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_marks_what_each_row_is_compared_with(comparison):
    mean = {row.name: 100 * row.values("accuracy").mean() for row in comparison.rows}
    first, second = list(mean)[:2]
    assert _compared_with(comparison) == dict.fromkeys(mean, mean["a"])
    gain = report.Gain(second, first, 0.1, None, None)
    paired = dataclasses.replace(comparison, gains=[gain])
    assert _compared_with(paired) == {second: mean[first], first: mean[first]}


def test_a_gain_of_nothing_has_no_minus():
    gain = report.Gain("a", "b", -1e-9, -1e-3, 1e-9)
    assert "same seed: +0.00 points" in gain.sentence()
    assert "[-0.10, +0.00]" in gain.sentence()
