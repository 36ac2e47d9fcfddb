"""The table that an experiment ends with."""

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from kdjax.report._figures import COST, FIGURES, FURTHER, PER_SEED

CLASSIFIER = ("accuracy", "agreement", "calibration_error", "negative_log_likelihood")
"""What is measured of a classifier."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of network in the table.

    Attributes:
      name: what the table calls it.
      seeds: for each seed its figures on the test split, and what identifies it:
        `{"seed": 0, "accuracy": 0.97, ..., "sha256": "..."}`.
      cost: `parameters`, `bytes`, `flops` and `latency` (seconds) of one example.
      settings: what was chosen for this row, such as the learning rate.
    """

    name: str
    seeds: Sequence[Mapping[str, Any]]
    cost: Mapping[str, float]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def values(self, figure: str) -> np.ndarray:
        """Return a figure of all seeds, in their order."""
        return np.array([seed[figure] for seed in self.seeds], np.float64)


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better one row is than another, seed by seed.

    Attributes:
      better: the row that should be.
      than: the row it is compared with.
      mean: mean difference over seeds, such as of accuracies in [-1, 1].
      low: lower end of the 95 % interval (Student's t), None for a single seed.
      high: upper end.
      figure: what differs, by name; "perplexity" and others are better when less.
    """

    better: str
    than: str
    mean: float
    low: float | None
    high: float | None
    figure: str = "accuracy"

    def sentence(self) -> str:
        """Say it in one sentence, also where it is no gain."""
        figure = FIGURES[self.figure]
        text = (
            f"{self.better} − {self.than}, same seed: {figure.signed(self.mean)} "
            f"{figure.unit}"
        )
        if self.low is None or self.high is None:
            return f"{text}; one seed gives no interval: run more with --seeds."
        ends = figure.signed(self.low), figure.signed(self.high)
        text += f", 95 % interval [{ends[0]}, {ends[1]}]"
        if min(figure.better * self.low, figure.better * self.high) > 0:
            return f"{text}: it helps."
        if max(figure.better * self.low, figure.better * self.high) < 0:
            return f"{text}: it HURTS here."
        return f"{text}: no gain is shown, the interval holds 0."


def paired_gain(better: Row, than: Row, figure: str = "accuracy") -> Gain:
    """Return the paired difference of two rows' figures with its 95 % interval.

    Raises:
      ValueError: if the rows do not have the same seeds.
    """
    ours, theirs = ([s["seed"] for s in row.seeds] for row in (better, than))
    if ours != theirs:
        raise ValueError(f"paired_gain: seeds differ: {ours} and {theirs}")
    difference = better.values(figure) - than.values(figure)
    mean = float(difference.mean())
    if len(difference) < 2:
        return Gain(better.name, than.name, mean, None, None, figure)
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    margin = float(special.stdtrit(len(difference) - 1, 0.975) * error)
    return Gain(better.name, than.name, mean, mean - margin, mean + margin, figure)


def _cell(values: np.ndarray, factor: float, digits: int) -> str:
    values = values * factor
    text = f"{values.mean():,.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):,.{digits}f}"
    return text


def _widths(table: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _span(table: list[list[str]]) -> int:
    widths = _widths(table)
    return sum(widths) + 2 * (len(widths) - 1)


def _parts(table: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Return tables of some columns each, as wide as fits, all with the first one."""
    start, columns = 1, len(table[0])
    if columns == 1:
        yield table
    while start < columns:
        stop = columns
        while stop > start + 1 and _span(_cut(table, start, stop)) > width:
            stop -= 1
        yield _cut(table, start, stop)
        start = stop


def _cut(table: list[list[str]], start: int, stop: int) -> list[list[str]]:
    return [[row[0], *row[start:stop]] for row in table]


def _lines(table: list[list[str]]) -> str:
    """Return a table as text: the first column to the left, the others to the right."""
    widths = _widths(table)
    lines = [
        "  ".join(
            cell.rjust(size) if number else cell.ljust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    lines.insert(1, "  ".join("─" * size for size in widths))
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
      title: what the table shows, on which data, over how many seeds.
      rows: the networks.
      gains: paired comparisons of rows.
      notes: sentences that a reader needs to trust the table.
      columns: the figures shown, by name; all by default. "gain" is by how much
        `figure` is better than that of the row `baseline`, paired by seed, ± half its
        95 % interval.
      baseline: the row that gains are measured from.
      figure: what counts, by name: what gains and pictures are of.
    """

    title: str
    rows: Sequence[Row]
    gains: Sequence[Gain] = ()
    notes: Sequence[str] = ()
    columns: Sequence[str] = (*CLASSIFIER, *COST)
    baseline: str | None = None
    figure: str = "accuracy"

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first."""
        headings = {name: figure.heading for name, figure in FIGURES.items()}
        headings["gain"] = "gain"
        table = [["network", *(headings[name] for name in self.columns)]]
        for row in self.rows:
            table.append([row.name, *(self._figure(row, n) for n in self.columns)])
        return table

    def _figure(self, row: Row, name: str) -> str:
        if name == "gain":
            return self._gain(row)
        shown = FIGURES[name]
        of_row = name not in PER_SEED
        if of_row:
            values = np.array([row.cost[name]])
        elif any(name not in seed for seed in row.seeds):
            return ""  # of no meaning for this row
        else:
            values = row.values(name)
        return _cell(values, shown.factor, shown.digits)

    def _gain(self, row: Row) -> str:
        [than] = [other for other in self.rows if other.name == self.baseline]
        if [s["seed"] for s in row.seeds] != [s["seed"] for s in than.seeds]:
            return ""  # a teacher
        if row is than:
            return ""
        gain, figure = paired_gain(row, than, self.figure), FIGURES[self.figure]
        text = figure.signed(figure.better * gain.mean)
        if gain.high is not None:
            margin = figure.factor * (gain.high - gain.mean)
            text += f" ± {margin:,.{figure.digits}f}"
        return text

    def text(self, width: int = 80) -> str:
        """Return everything for a console `width` characters wide.

        A table that is too wide is turned on its side, if that makes it narrower, and
        then written in parts, one below the other.
        """
        table = self.cells()
        if _span(table) > width:
            turned = [list(column) for column in zip(*table, strict=True)]
            table = min(table, turned, key=_span)
        tables = "\n\n".join(_lines(part) for part in _parts(table, width))
        below = [textwrap.fill(sentence, width) for sentence in self.sentences()]
        return "\n".join([textwrap.fill(self.title, width), "", tables, "", *below])

    def sentences(self) -> list[str]:
        """Return what stands below the table."""
        return [*(gain.sentence() for gain in self.gains), *self.notes]

    def markdown(self) -> str:
        """Return title, table, gains and notes as Markdown."""
        headings, *rows = self.cells()
        rule = ["---", *["---:"] * (len(headings) - 1)]
        table = ["| " + " | ".join(row) + " |" for row in [headings, rule, *rows]]
        notes = [f"- {sentence}" for sentence in self.sentences()]
        return "\n".join([f"### {self.title}", "", *table, "", *notes, ""])

    def csv(self) -> str:
        """Return one line per network and seed, all figures in full precision."""
        known = {name for row in self.rows for name in (*row.cost, *row.seeds[0])}
        further = [name for name in FURTHER if name in known]
        measured = [name for name in PER_SEED if name in known]
        names = ["network", "seed", *measured, *COST, *further, "sha256"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            for seed in row.seeds:
                writer.writerow({**row.cost, **seed, "network": row.name})
        return text.getvalue()

    def json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dataclasses.asdict(self)
