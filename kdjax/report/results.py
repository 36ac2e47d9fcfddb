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

# name -> (heading, factor, digits); figures that are measured once per seed
_PER_SEED = {
    "accuracy": ("accuracy %", 100, 2),
    "agreement": ("agreement %", 100, 2),
    "calibration_error": ("calibration error %", 100, 2),
    "negative_log_likelihood": ("NLL", 1, 4),
}
# what a network costs does not depend on the seed
_COST = {
    "parameters": ("parameters", 1, 0),
    "bytes": ("bytes", 1, 0),
    "flops": ("FLOPs", 1, 0),
    "latency": ("latency µs", 1e6, 1),
}
# what some results show besides
_FURTHER = {
    "stored": ("on disk", 1, 0),
    "nonzero": ("nonzero", 1, 0),
    "onnx_latency": ("ONNX µs", 1e6, 1),
}
_FIGURES = {**_PER_SEED, **_COST, **_FURTHER}


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
      mean: mean difference of accuracy over seeds, in [-1, 1].
      low: lower end of the 95 % interval (Student's t), None for a single seed.
      high: upper end.
    """

    better: str
    than: str
    mean: float
    low: float | None
    high: float | None

    def sentence(self) -> str:
        """Say it in one sentence, also where it is no gain."""
        text = (
            f"{self.better} − {self.than}, same seed: {_points(self.mean)} points of "
            "test accuracy"
        )
        if self.low is None or self.high is None:
            return f"{text}; one seed gives no interval: run more with --seeds."
        text += f", 95 % interval [{_points(self.low)}, {_points(self.high)}]"
        if self.low > 0:
            return f"{text}: it helps."
        if self.high < 0:
            return f"{text}: it HURTS here."
        return f"{text}: no gain is shown, the interval holds 0."


def _points(difference: float) -> str:
    """Return it in points with its sign, but zero without a minus."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"


def paired_gain(better: Row, than: Row) -> Gain:
    """Return the paired difference of two rows' accuracies with its 95 % interval.

    Raises:
      ValueError: if the rows do not have the same seeds.
    """
    ours, theirs = ([s["seed"] for s in row.seeds] for row in (better, than))
    if ours != theirs:
        raise ValueError(f"paired_gain: seeds differ: {ours} and {theirs}")
    difference = better.values("accuracy") - than.values("accuracy")
    mean = float(difference.mean())
    if len(difference) < 2:
        return Gain(better.name, than.name, mean, None, None)
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    margin = float(special.stdtrit(len(difference) - 1, 0.975) * error)
    return Gain(better.name, than.name, mean, mean - margin, mean + margin)


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
      columns: the figures shown, by name; all by default. "gain" is the paired
        difference of accuracy to the row `baseline`, ± half its 95 % interval.
      baseline: the row that gains are measured from.
    """

    title: str
    rows: Sequence[Row]
    gains: Sequence[Gain] = ()
    notes: Sequence[str] = ()
    columns: Sequence[str] = (*_PER_SEED, *_COST)
    baseline: str | None = None

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first."""
        headings = {name: heading for name, (heading, _, _) in _FIGURES.items()}
        headings["gain"] = "gain"
        table = [["network", *(headings[name] for name in self.columns)]]
        for row in self.rows:
            table.append([row.name, *(self._figure(row, n) for n in self.columns)])
        return table

    def _figure(self, row: Row, name: str) -> str:
        if name == "gain":
            return self._gain(row)
        _, factor, digits = _FIGURES[name]
        of_row = name not in _PER_SEED
        values = np.array([row.cost[name]]) if of_row else row.values(name)
        return _cell(values, factor, digits)

    def _gain(self, row: Row) -> str:
        [than] = [other for other in self.rows if other.name == self.baseline]
        if [s["seed"] for s in row.seeds] != [s["seed"] for s in than.seeds]:
            return ""  # a teacher
        if row is than:
            return ""
        gain = paired_gain(row, than)
        text = _points(gain.mean)
        if gain.high is not None:
            text += f" ± {100 * (gain.high - gain.mean):.2f}"
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
        known = {name for row in self.rows for name in row.cost}
        further = [name for name in _FURTHER if name in known]
        names = ["network", "seed", *_PER_SEED, *_COST, *further, "sha256"]
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
