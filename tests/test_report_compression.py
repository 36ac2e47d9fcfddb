"""Tables and pictures of compressed networks and of what layers bear."""

import csv
import dataclasses

import numpy as np
import pytest

from kdjax import report


def row(name, accuracies, size, seconds, family="pruned"):
    seeds = [
        {"seed": n, "accuracy": a, "negative_log_likelihood": 0.1, "sha256": "x"}
        for n, a in enumerate(accuracies)
    ]
    cost = {"stored": size, "nonzero": 5, "flops": 7, "latency": 2e-5}
    return report.Row(
        name, seeds, {**cost, "onnx_latency": seconds}, {"family": family}
    )


COLUMNS = ("accuracy", "stored", "flops", "latency", "onnx_latency")


def frontier(*rows):
    return report.Frontier("Title", rows, columns=COLUMNS)


@pytest.fixture
def result():
    return frontier(
        row("large", [0.9, 0.92], 1000, 9e-6, "teacher"),
        row("as good", [0.92, 0.9], 100, 9e-6),
        row("worse", [0.8, 0.82], 200, 9e-6),
        row("small", [0.7, 0.72], 10, 3e-6),
        row("slow", [0.93, 0.93], 5000, 2e-5, "teacher"),
    )


def test_optimal_are_the_rows_that_no_other_beats(result):
    assert [r.name for r in result.optimal("stored")] == ["small", "as good", "slow"]
    names = [r.name for r in result.optimal("onnx_latency")]
    assert names == ["small", "large", "as good", "slow"]  # two are equal in both


def test_optimal_rows_equal_a_check_of_all_pairs():
    rng = np.random.default_rng(0)
    drawn = zip(rng.integers(0, 6, 40), rng.integers(1, 6, 40), strict=True)
    rows = [row(str(n), [a / 10], int(s), 1e-6) for n, (a, s) in enumerate(drawn)]

    def beaten(one):
        accuracy, size = one.seeds[0]["accuracy"], one.cost["stored"]
        return any(
            other.seeds[0]["accuracy"] >= accuracy
            and other.cost["stored"] <= size
            and (other.seeds[0]["accuracy"], other.cost["stored"]) != (accuracy, size)
            for other in rows
        )

    expected = {r.name for r in rows if not beaten(r)}
    assert {r.name for r in frontier(*rows).optimal("stored")} == expected


def test_the_table_marks_them_and_keeps_to_a_console(result):
    headings, *lines = result.cells()
    assert headings == [
        *("network", "accuracy %", "on disk", "FLOPs", "XLA µs", "ONNX µs", "best")
    ]
    assert {line[0]: line[-1] for line in lines} == {
        "large": "time",
        "as good": "both",
        "worse": "",
        "small": "both",
        "slow": "both",
    }
    assert lines[0][1:6] == ["91.00 ± 1.41", "1,000", "7", "20.0", "9.0"]
    text = result.text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("ONNX µs") == 1  # in one part
    assert "| large | 91.00 ± 1.41 | 1,000 |" in result.markdown()


def test_csv_has_all_that_was_measured(result):
    lines = list(csv.DictReader(result.csv().splitlines()))
    assert len(lines) == 10
    assert lines[0]["stored"] == "1000"
    assert lines[0]["nonzero"] == "5"
    assert float(lines[-1]["onnx_latency"]) == 2e-5


def test_the_frontier_is_drawn_with_one_seed_and_one_row_too(result, tmp_path):
    lone = frontier(row("alone", [0.5], 10, 1e-6))
    for number, one in enumerate((result, lone)):
        report.plot_frontier(tmp_path / f"{number}.png", one)
        content = (tmp_path / f"{number}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


@pytest.fixture
def layers():
    figures = {"a": [[0.9, 0.5], [0.8, 0.4]], "b": [[0.9, 0.9], [0.8, 0.6]]}
    rows = [
        report.Row(name, [{"seed": n, "accuracy": x} for n, x in enumerate(seeds)], {})
        for name, seeds in figures.items()
    ]
    return report.Sensitivity("Title", rows, sparsities=(0.0, 0.9))


def test_layers_are_lines_and_sparsities_columns(layers):
    assert layers.cells() == [
        ["layer \\ sparsity", "0", "0.9"],
        ["a", "85.00 ± 7.07", "45.00 ± 7.07"],
        ["b", "85.00 ± 7.07", "75.00 ± 21.21"],
    ]
    lines = layers.csv().splitlines()
    assert lines[:2] == ["layer,seed,sparsity,accuracy", "a,0,0,0.9"]
    assert len(lines) == 9


def test_sensitivity_is_drawn(layers, tmp_path):
    many = dataclasses.replace(layers, rows=[*layers.rows] * 8)
    heights = []
    for number, one in enumerate((layers, many)):
        report.plot_sensitivity(tmp_path / f"{number}.png", one)
        content = (tmp_path / f"{number}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        heights.append(int.from_bytes(content[20:24], "big"))
    assert heights[1] > heights[0]  # a line for each layer


def test_a_table_that_is_too_wide_is_written_in_parts(layers):
    wide = dataclasses.replace(
        layers,
        rows=[
            dataclasses.replace(
                row, seeds=[{**s, "accuracy": s["accuracy"] * 6} for s in row.seeds]
            )
            for row in [*layers.rows] * 12
        ],
        sparsities=tuple(n / 12 for n in range(12)),
    )
    text = wide.text(80)
    assert max(map(len, text.splitlines())) <= 80
    for heading in wide.cells()[0][1:]:
        assert sum(heading in line.split() for line in text.splitlines()) == 1
    assert sum(line.split()[:1] == ["a"] for line in text.splitlines()) == 12 * 3
