"""What each layer bears: accuracy against sparsity, one layer pruned at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.plots import _figure
from kdjax.report.results import Result, _cell


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

    Args:
      path: the PNG file to write.
      result: whose rows are drawn.
    """
    figure, axes = _figure(result.title, "sparsity of one layer", "accuracy %")
    for number, (row, seeds) in enumerate(
        zip(result.rows, 100 * result.table(), strict=True)
    ):
        style: dict[str, Any] = {"color": f"C{number % 10}", "label": row.name}
        dashes = "-" if number < 10 else "--"
        axes.plot(result.sparsities, seeds.mean(0), f".{dashes}", lw=1.6, **style)
        low, high = seeds.min(0), seeds.max(0)
        axes.fill_between(
            result.sparsities, low, high, color=style["color"], alpha=0.12, lw=0
        )
    axes.legend(frameon=False, fontsize=8, title="mean and range over seeds")
    figure.savefig(path)
