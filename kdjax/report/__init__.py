"""Results to tables and plots, metrics to logs, and the manifest of a run."""

from kdjax.report.log import MetricLog
from kdjax.report.manifest import about_this_process, write_json
from kdjax.report.plots import (
    plot_accuracy_against_size,
    plot_comparison,
    plot_curves,
)
from kdjax.report.results import Gain, Result, Row, paired_gain

__all__ = [
    "Gain",
    "MetricLog",
    "Result",
    "Row",
    "about_this_process",
    "paired_gain",
    "plot_accuracy_against_size",
    "plot_comparison",
    "plot_curves",
    "write_json",
]
