"""What each layer bears: accuracy against sparsity, one layer pruned at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.plots import _figure, draw_cells
from kdjax.report.results import Result, _cell

_CURVES = 8
"""More layers than this are cells, not curves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity(Result):
    """Accuracies of a network with one layer pruned at a time.

    Every row of the result is a layer; of each seed it has `accuracy`, a list with one
    figure for each sparsity.

    Attributes:
      sparsities: what was tried, in rising order.
    """

    sparsities: tuple[float, ...]

    def table(self) -> np.ndarray:
        """Return the accuracies, `[layers, seeds, sparsities]`."""
        return np.array([[s["accuracy"] for s in row.seeds] for row in self.rows])

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first."""
        heading = ["layer \\ sparsity", *(f"{x:g}" for x in self.sparsities)]
        lines = [
            [row.name, *(_cell(figures, 100, 2) for figures in seeds.T)]
            for row, seeds in zip(self.rows, self.table(), strict=True)
        ]
        return [heading, *lines]

    def csv(self) -> str:
        """Return one line per layer, seed and sparsity."""
        lines = ["layer,seed,sparsity,accuracy"]
        for row in self.rows:
            for seed in row.seeds:
                pairs = zip(self.sparsities, seed["accuracy"], strict=True)
                lines += [f"{row.name},{seed['seed']},{x:g},{y}" for x, y in pairs]
        return "\n".join(lines) + "\n"


def plot_sensitivity(path: str | Path, result: Sensitivity) -> None:
    """Draw a curve for each layer; layers whose accuracy falls early must be spared.

    Where there are many layers, each is a line of coloured cells.

    Args:
      path: the PNG file to write.
      result: whose rows are drawn.
    """
    x = "sparsity of one layer"
    many = len(result.rows) > _CURVES
    height = 1.4 + 0.26 * len(result.rows) if many else 4.3
    figure, axes = _figure(result.title, x, "" if many else "accuracy %", height)
    if many:
        means = 100 * result.table().mean(1)
        texts = [[f"{value:.1f}" for value in line] for line in means]
        axes.set_yticks(range(len(means)), [row.name for row in result.rows])
        image = draw_cells(axes, means, texts, result.sparsities, size=8)
        figure.colorbar(image, label="mean accuracy %")
    else:
        _draw_curves(axes, result)
    figure.savefig(path)


def _draw_curves(axes: Any, result: Sensitivity) -> None:
    for number, (row, seeds) in enumerate(
        zip(result.rows, 100 * result.table(), strict=True)
    ):
        style: dict[str, Any] = {"color": f"C{number}", "label": row.name}
        axes.plot(result.sparsities, seeds.mean(0), ".-", lw=1.6, **style)
        low, high = seeds.min(0), seeds.max(0)
        axes.fill_between(
            result.sparsities, low, high, color=style["color"], alpha=0.12, lw=0
        )
    axes.legend(frameon=False, fontsize=8, title="mean and range over seeds")
