"""The pictures that suit a result."""

from pathlib import Path

from kdjax import report


def draw(
    directory: Path, log: report.MetricLog, result: report.Result
) -> tuple[str, ...]:
    """Draw the pictures that suit a result; return their names."""
    if isinstance(result, report.Grid):
        report.plot_heatmap(directory / "heatmap.png", result)
        return ("heatmap",)
    if isinstance(result, report.Frontier):
        report.plot_frontier(directory / "frontier.png", result)
        return ("frontier",)
    if isinstance(result, report.Sensitivity):
        report.plot_sensitivity(directory / "sensitivity.png", result)
        return ("sensitivity",)
    if isinstance(result, report.Tradeoff):
        report.plot_tradeoff(directory / "tradeoff.png", result)
        return ("tradeoff",)
    if result.baseline is not None:
        report.plot_comparison(directory / "comparison.png", result)
        return ("comparison",)
    name = f"validation_{result.figure}"
    curves = {row.name: _curves(log, row, name) for row in result.rows}
    curves = {name: seeds for name, seeds in curves.items() if all(seeds)}
    report.plot_curves(directory / "curves.png", result, curves)
    report.plot_accuracy_against_size(directory / "size.png", result)
    return "curves", "size"


def _curves(
    log: report.MetricLog, row: report.Row, name: str
) -> list[list[tuple[int, float]]]:
    lines = [log.read(seed.get("network", "")) for seed in row.seeds]
    return [[(x["step"], x[name]) for x in seed if name in x] for seed in lines]
