"""Pictures: how networks learned, what accuracy costs, where the best settings are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report._figures import FIGURES, Figure
from kdjax.report.grids import Grid
from kdjax.report.results import Result


def _figure(title: str, x: str, y: str, height: float = 4.3, *, panels: int = 1) -> Any:
    """Return a figure and its axes, or an array of them, one below the other."""
    from matplotlib.figure import Figure  # no global state, no display needed

    figure = Figure(figsize=(7, height), dpi=120, layout="constrained")
    axes = figure.subplots(panels)
    figure.suptitle(title, fontsize=10, wrap=True)
    for panel in np.atleast_1d(axes):
        panel.set(xlabel=x, ylabel=y)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    return figure, axes


def _on_test(figure: Figure) -> str:
    return f"test {figure.heading.removeprefix('test ')}"


def plot_curves(
    path: str | Path,
    result: Result,
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
) -> None:
    """Draw the rows' figure on the validation split over the steps.

    Args:
      path: the PNG file to write.
      result: gives title and colours.
      curves: row name -> one curve per seed -> `(step, figure)` points.
    """
    shown = FIGURES[result.figure]
    label = f"validation {shown.heading}"
    figure, axes = _figure(result.title, "training step", label)
    for number, row in enumerate(result.rows):
        if row.name not in curves:
            continue
        seeds = curves[row.name]
        steps = [step for step, _ in seeds[0]]
        values = shown.factor * np.array([[y for _, y in seed] for seed in seeds])
        color = f"C{number}"
        axes.plot(steps, values.mean(0), label=row.name, lw=1.8, color=color)
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    side = "lower" if shown.better > 0 else "upper"
    place = f"{side} right"
    axes.legend(frameon=False, loc=place, title="mean and range over seeds")
    figure.savefig(path)


def plot_accuracy_against_size(path: str | Path, result: Result) -> None:
    """Draw every row's figure on the test split against its number of parameters.

    Rows of one size are moved apart a little, so that their bars can be told apart.
    """
    shown = FIGURES[result.figure]
    figure, axes = _figure(result.title, "parameters", _on_test(shown))
    drawn: Counter[float] = Counter()
    for number, row in enumerate(result.rows):
        values = shown.factor * row.values(result.figure)
        spread = values.std(ddof=1) if len(values) > 1 else None
        size = row.cost["parameters"]
        x = size * 1.06 ** drawn[size]
        drawn[size] += 1
        axes.errorbar(
            x,
            values.mean(),
            yerr=spread,
            fmt="o",
            capsize=4,
            color=f"C{number}",
            label=row.name,
        )
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.2)
    axes.legend(frameon=False, loc="best", title="mean ± std over seeds")
    figure.savefig(path)


def plot_comparison(path: str | Path, result: Result) -> None:
    """Draw every row's figure on the test split, one below the other.

    A dashed line marks what a row is compared with: by the gains, or without any the
    baseline. Rows of one `settings["family"]` have one colour.
    """
    families = list(dict.fromkeys(row.settings.get("family") for row in result.rows))
    height = 1.2 + 0.22 * len(result.rows)
    shown, marks = FIGURES[result.figure], _compared_with(result)
    figure, axes = _figure(result.title, _on_test(shown), "", height)
    for number, row in enumerate(result.rows):
        values = shown.factor * row.values(result.figure)
        spread = values.std(ddof=1) if len(values) > 1 else None
        family = row.settings.get("family")
        color = f"C{families.index(family)}"
        axes.errorbar(
            values.mean(), -number, xerr=spread, fmt="o", capsize=3, color=color
        )
        if row.name in marks:
            ends = -number - 0.5, -number + 0.5
            axes.plot([marks[row.name]] * 2, ends, color="gray", lw=1, ls="--")
    axes.set_ylim(-len(result.rows) + 0.3, 0.7)
    names = [row.name for row in result.rows]
    axes.set_yticks(range(0, -len(names), -1), names, fontsize=8)
    if any(families):
        for family in families:
            axes.plot([], [], "o", color=f"C{families.index(family)}", label=family)
        outside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(frameon=False, fontsize=8, **outside)
    figure.savefig(path)


def _compared_with(result: Result) -> dict[str, float]:
    """Return by row the mean figure of the row that it is compared with, or is."""
    names = [row.name for row in result.rows]
    than = {gain.better: gain.than for gain in result.gains}
    than = than or dict.fromkeys(names, str(result.baseline))
    than |= {name: name for name in than.values() if name not in than}
    values = {row.name: row.values(result.figure).mean() for row in result.rows}
    return {a: FIGURES[result.figure].factor * values[b] for a, b in than.items()}


def draw_cells(
    axes: Any,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    across: Sequence[float],
    size: int = 9,
) -> Any:
    """Draw a table as coloured cells with text in them; return the image."""
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(across)), [f"{x:g}" for x in across])
    for i, j in np.ndindex(values.shape):
        color = "white" if image.norm(values[i, j]) < 0.6 else "black"
        axes.text(
            j, i, texts[i][j], ha="center", va="center", color=color, fontsize=size
        )
    return image


def plot_heatmap(path: str | Path, grid: Grid) -> None:
    """Draw the mean test accuracy of every setting; the best by validation is framed.

    Args:
      path: the PNG file to write.
      grid: whose cells are drawn.
    """
    from matplotlib.patches import Rectangle

    down, across = grid.values(grid.down), grid.values(grid.across)
    table = [[grid.at(y, x) for x in across] for y in down]
    means = np.array(
        [[100 * row.values("accuracy").mean() for row in r] for r in table]
    )
    figure, axes = _figure("", grid.across, grid.down, 1.8 + 0.6 * len(down))
    figure.suptitle(f"{grid.title}\nframed: best on the validation split", fontsize=10)
    texts = [[x.replace(" ±", "\n±") for x in line[1:]] for line in grid.cells()[1:]]
    axes.set_yticks(range(len(down)), [f"{y:g}" for y in down])
    image = draw_cells(axes, means, texts, across)
    for i, j in np.ndindex(means.shape):
        if table[i][j] is grid.best:
            frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, clip_on=False)
            frame.set(edgecolor="red", linewidth=2.5)
            axes.add_patch(frame)
    figure.colorbar(image, label="mean test accuracy %")
    figure.savefig(path)
