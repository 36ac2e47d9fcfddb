"""Two pictures: how the networks learned, and what their accuracy costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.results import Result


def _figure(title: str, x: str, y: str) -> Any:
    from matplotlib.figure import Figure  # no global state, no display needed

    figure = Figure(figsize=(7, 4.3), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def plot_curves(
    path: str | Path,
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    title: str,
) -> None:
    """Draw the validation accuracy of each row over the steps.

    Args:
      path: the PNG file to write.
      curves: row name -> one curve per seed -> `(step, accuracy in [0, 1])` points.
      title: of the picture.
    """
    figure, axes = _figure(title, "training step", "validation accuracy %")
    for name, seeds in curves.items():
        steps = [step for step, _ in seeds[0]]
        values = 100 * np.array([[y for _, y in seed] for seed in seeds])
        (line,) = axes.plot(steps, values.mean(0), label=name, lw=1.8)
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes.legend(frameon=False, loc="lower right", title="mean and range over seeds")
    figure.savefig(path)


def plot_accuracy_against_size(path: str | Path, result: Result) -> None:
    """Draw every row's test accuracy against its number of parameters."""
    figure, axes = _figure(result.title, "parameters", "test accuracy %")
    for row in result.rows:
        accuracy = 100 * row.values("accuracy")
        spread = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
        axes.errorbar(
            row.cost["parameters"], accuracy.mean(), yerr=spread, fmt="o", capsize=4,
            label=row.name,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.2)
    axes.legend(frameon=False, loc="lower right", title="mean ± std over seeds")
    figure.savefig(path)
