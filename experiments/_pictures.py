"""The pictures that suit a result."""

from pathlib import Path

from kdjax import report

_OWN = {
    report.Grid: ("heatmap", report.plot_heatmap),
    report.Frontier: ("frontier", report.plot_frontier),
    report.Sensitivity: ("sensitivity", report.plot_sensitivity),
    report.Tradeoff: ("tradeoff", report.plot_tradeoff),
}


def draw(
    directory: Path, log: report.MetricLog, result: report.Result
) -> tuple[str, ...]:
    """Draw the pictures that suit a result; return their names."""
    for kind, (name, plot) in _OWN.items():
        if isinstance(result, kind):
            plot(directory / f"{name}.png", result)
            return (name,)
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
