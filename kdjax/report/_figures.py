"""The figures that tables know: headings, units, and which way is better."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
      heading: of its column, with the unit.
      factor: what it is multiplied with to be shown.
      digits: after the point.
      unit: what a difference of it is one of.
      better: 1 where more is better, -1 where less is.
    """

    heading: str
    factor: float = 1
    digits: int = 0
    unit: str = ""
    better: int = 1

    def cell(self, value: float) -> str:
        """Return a value with its unit."""
        percent = " %" if self.heading.endswith("%") else ""
        return f"{self.factor * value:,.{self.digits}f}{percent}"

    def signed(self, difference: float) -> str:
        """Return a difference with its sign, but zero without a minus."""
        shown = round(self.factor * difference, self.digits) + 0.0
        return f"{shown:+,.{self.digits}f}"


# measured once per seed
PER_SEED = {
    "accuracy": Figure("accuracy %", 100, 2, "points of test accuracy"),
    "agreement": Figure("agreement %", 100, 2, "points of agreement"),
    "calibration_error": Figure(
        "calibration error %", 100, 2, "points of calibration error", -1
    ),
    "negative_log_likelihood": Figure("NLL", 1, 4, "nats of test NLL", -1),
    "errors": Figure("test errors", 1, 1, "test errors", -1),
    "absent_errors": Figure("of them 3s", 1, 1, "test errors on 3s", -1),
    "frame_accuracy": Figure("frames %", 100, 2, "points of frame accuracy"),
    "perplexity": Figure("perplexity", 1, 3, "of test perplexity", -1),
    "hit_rate": Figure("HR@10 %", 100, 2, "points of HR@10"),
    "ndcg": Figure("NDCG@10 %", 100, 2, "points of NDCG@10"),
    "mrr": Figure("MRR %", 100, 2, "points of MRR"),
    "mean_return": Figure("mean return", 1, 1, "of mean return"),
    "rmse": Figure("RMSE", 1, 2, "of test RMSE", -1),
}
# what a network costs does not depend on the seed
COST = {
    "parameters": Figure("parameters"),
    "bytes": Figure("bytes"),
    "flops": Figure("FLOPs"),
    "latency": Figure("latency µs", 1e6, 1),
}
# what some results show besides
FURTHER = {
    "stored": Figure("on disk"),
    "nonzero": Figure("nonzero"),
    "onnx_latency": Figure("ONNX µs", 1e6, 1),
}
FIGURES = {**PER_SEED, **COST, **FURTHER}
