"""Results to tables and plots, metrics to logs, and the manifest of a run."""

from kdjax.report._figures import FIGURES, Figure
from kdjax.report.frontier import Frontier, plot_frontier
from kdjax.report.grids import Grid
from kdjax.report.log import MetricLog
from kdjax.report.manifest import about_this_process, write_json
from kdjax.report.plots import (
    plot_accuracy_against_size,
    plot_comparison,
    plot_curves,
    plot_heatmap,
)
from kdjax.report.results import Gain, Result, Row, paired_gain
from kdjax.report.sensitivity import Sensitivity, plot_sensitivity
from kdjax.report.tradeoff import Tradeoff, plot_tradeoff

__all__ = [
    "FIGURES",
    "Figure",
    "Frontier",
    "Gain",
    "Grid",
    "MetricLog",
    "Result",
    "Row",
    "Sensitivity",
    "Tradeoff",
    "about_this_process",
    "paired_gain",
    "plot_accuracy_against_size",
    "plot_comparison",
    "plot_curves",
    "plot_frontier",
    "plot_heatmap",
    "plot_sensitivity",
    "plot_tradeoff",
    "write_json",
]
