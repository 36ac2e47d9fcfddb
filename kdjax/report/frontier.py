"""What accuracy costs in bytes and in time: a table, and a picture of two panels."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdjax.report.plots import _figure
from kdjax.report.results import Result, Row

# cost -> (label, factor)
AXES = {
    "stored": ("bytes on disk", 1.0),
    "onnx_latency": ("µs per example in onnxruntime", 1e6),
}
_SHORT = {"stored": "size", "onnx_latency": "time"}
_LINE: dict[str, Any] = {"color": "gray", "lw": 1, "zorder": 1}
_HEADINGS = {"latency µs": "XLA µs"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frontier(Result):
    """Networks of many sizes, of which those count that no other one beats.

    A row is optimal in size if no other is at least as accurate and no larger, and
    better in one of the two; in time likewise. Means over seeds decide.
    """

    def optimal(self, cost: str) -> list[Row]:
        """Return the rows that no other beats, cheapest first.

        Args:
          cost: `"stored"` or `"onnx_latency"`.
        """
        rows = sorted(self.rows, key=lambda row: (row.cost[cost], -_mean(row)))
        found: list[Row] = []
        for row in rows:
            last = found[-1] if found else None
            if last is None or _mean(row) > _mean(last) or _same(row, last, cost):
                found.append(row)
        return found

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first; the last column is what is best."""
        headings, *lines = super().cells()
        best = {name: self.optimal(name) for name in AXES}
        marks = [
            [_SHORT[name] for name, rows in best.items() if row in rows]
            for row in self.rows
        ]
        said = ["both" if len(mark) > 1 else "".join(mark) for mark in marks]
        headings = [_HEADINGS.get(name, name) for name in headings]
        table = [[*line, mark] for line, mark in zip(lines, said, strict=True)]
        return [[*headings, "best"], *table]


def _same(row: Row, other: Row, cost: str) -> bool:
    return (row.cost[cost], _mean(row)) == (other.cost[cost], _mean(other))


def _mean(row: Row) -> float:
    return float(row.values("accuracy").mean())


def plot_frontier(path: str | Path, result: Frontier) -> None:
    """Draw accuracy against bytes and against time; lines join the optimal rows.

    Rows of one `settings["family"]` have one colour. Optimal rows are numbered, and
    named beside the picture.

    Args:
      path: the PNG file to write.
      result: whose rows are drawn.
    """
    figure, axes = _figure(result.title, "", "test accuracy %", 9.5, panels=len(AXES))
    families = list(dict.fromkeys(row.settings.get("family") for row in result.rows))
    for panel, (cost, (label, factor)) in zip(axes, AXES.items(), strict=True):
        best = result.optimal(cost)
        places = {
            row.name: (factor * row.cost[cost], 100 * _mean(row)) for row in result.rows
        }
        line = [places[row.name] for row in best]
        panel.plot([x for x, _ in line], [y for _, y in line], **_LINE)
        for row in result.rows:
            color = f"C{families.index(row.settings.get('family'))}"
            _draw(panel, row, places[row.name][0], color, row in best)
        _name(panel, {row.name: places[row.name] for row in best})
        panel.set(xlabel=label)
        widths = [x for x, _ in places.values()]
        if max(widths) > 10 * min(widths):
            panel.set(xscale="log")
            panel.xaxis.set_major_formatter("{x:,.10g}")
        panel.margins(x=0.12)
        tops = [y for _, y in places.values()]
        # what has lost half of its accuracy must not flatten the rest, or be optimal
        lowest = min(max(min(tops), max(tops) - 11), *(y for _, y in line))
        panel.set_ylim(lowest - 1, max(tops) + 1.5)
    for family in families:
        axes[0].plot([], [], "o", color=f"C{families.index(family)}", label=family)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=5)
    figure.savefig(path)


def _draw(panel: Any, row: Row, x: float, color: str, best: bool) -> None:
    accuracy = 100 * row.values("accuracy")
    spread = accuracy.std(ddof=1) if len(accuracy) > 1 else None
    panel.errorbar(
        x,
        accuracy.mean(),
        yerr=spread,
        fmt="*" if best else "o",
        markersize=11 if best else 5,
        alpha=1.0 if best else 0.5,
        elinewidth=0.8,
        capsize=2,
        color=color,
        zorder=3 if best else 2,
    )


def _name(panel: Any, places: Mapping[str, tuple[float, float]]) -> None:
    """Number the points, and say beside the panel which they are."""
    for number, place in enumerate(places.values(), 1):
        panel.annotate(
            number,
            place,
            xytext=(-6, 5),  # above the line, which rises
            ha="right",
            textcoords="offset points",
            fontsize=8,
            fontweight="bold",
            zorder=4,
        )
    key = "\n".join(f"{number}  {name}" for number, name in enumerate(places, 1))
    panel.annotate(
        key, (1.02, 1), xycoords="axes fraction", va="top", fontsize=8, linespacing=1.5
    )
