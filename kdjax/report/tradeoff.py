"""What accuracy costs: a table, and a curve between cheap and accurate."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.plots import _figure
from kdjax.report.results import Result, Row

_SHORT = {"calibration error %": "ECE %", "FLOPs": "mean FLOPs"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tradeoff(Result):
    """A table of ways to answer, and one of them at many settings.

    Attributes:
      curve: rows of one way, cheapest first; `cost["flops"]` of a row is the mean over
        examples.
      chosen: the row of the table whose setting was chosen on the curve.
    """

    curve: Sequence[Row]
    chosen: str

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first."""
        headings, *lines = super().cells()
        return [[_SHORT.get(name, name) for name in headings], *lines]

    def markdown(self) -> str:
        """Return the table with gains and notes, and one of the curve below."""
        title = f"The curve: {self.chosen}"
        curve = dataclasses.replace(
            self, title=title, rows=self.curve, gains=(), notes=()
        )
        return f"{super().markdown()}\n{Result.markdown(curve)}"


def plot_tradeoff(path: str | Path, result: Tradeoff) -> None:
    """Draw test accuracy against mean FLOPs per example: the rows and the curve.

    Rows of about one cost are moved apart a little, so that they can be told apart.

    Args:
      path: the PNG file to write.
      result: whose rows and curve are drawn.
    """
    labels = ("mean FLOPs per example", "test accuracy %")
    figure, axes = _figure(result.title, *labels, 4.6)
    flops = [row.cost["flops"] for row in result.curve]
    mean, spread = np.transpose([_accuracy(row) for row in result.curve])
    label = f"{result.chosen}, all settings"
    axes.plot(flops, mean, ".-", lw=1.8, color="C0", label=label, zorder=2)
    band = {"color": "C0", "alpha": 0.13, "lw": 0}
    axes.fill_between(flops, mean - spread, mean + spread, **band)
    right = 0.0
    for number, row in enumerate(sorted(result.rows, key=lambda r: r.cost["flops"])):
        right = max(row.cost["flops"], 1.07 * right)
        _draw(axes, row, right, number, row.name == result.chosen)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    axes.legend(frameon=False, fontsize=9, loc="best", title="mean ± std over seeds")
    figure.savefig(path)


def _draw(axes: Any, row: Row, flops: float, number: int, chosen: bool) -> None:
    mean, spread = _accuracy(row)
    axes.errorbar(
        flops,
        mean,
        yerr=spread or None,
        fmt="*" if chosen else "osD^v"[number % 5],
        markersize=14 if chosen else 7,
        capsize=4,
        color="C0" if chosen else f"C{number + 1}",
        label=f"{row.name}, setting chosen on validation" if chosen else row.name,
        zorder=3,
    )


def _accuracy(row: Row) -> tuple[float, float]:
    """Mean and standard deviation over seeds in percent."""
    values = 100 * row.values("accuracy")
    return values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
