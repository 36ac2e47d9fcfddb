"""Does a student learn more when it also matches what is inside its teacher?

One teacher; then, with equal budgets, the same student on labels alone and with one of
the published ways to match features beside the labels (FitNets, Romero et al. 2015,
https://arxiv.org/abs/1412.6550, and its successors). --method says which.

python -m experiments.feature                          # digits, a minute on 2 cores
python -m experiments.feature --method attention --seeds 3
python -m experiments.feature --method hint --layers stage1 stage3 --weight 10
python -m experiments.feature --smoke                  # seconds
python -m experiments.feature --method review --dataset cifar100 --augment crop flip
    --teacher.depth 32 --teacher.width 4 --student.width 4 --schedule stairs
    --steps 168750 --teacher-steps 168750              # an accelerator
"""

import dataclasses

from experiments import _features as f
from experiments import _methods, _run
from experiments._methods import Method
from kdjax import report

METHODS = {
    "hint": Method("features (FitNets)", 100, f.hint),
    "cosine": Method("their direction", 1, f.cosine),
    "attention": Method("where they are large (AT)", 1000, f.attention),
    "selectivity": Method("what excites each channel (NST)", 50, f.selectivity),
    "factor": Method("a paraphrase of the last map (FT)", 200, f.factor),
    "flow": Method("how a stage becomes the next (FSP)", 50, f.flow),
    "boundary": Method("which units are active (AB)", 1, f.boundary),
    "variational": Method("features, as likely (VID)", 1, f.variational),
    "margin": Method("what exceeds a margin (OFD)", 1e-3, f.margin),
    "review": Method("stages, fused (ReviewKD)", 1, f.review),
    "channels": Method("where each channel is active (CWD)", 50, f.channels),
    "correlation": Method("how channels correlate (ICKD)", 2.5, f.correlation),
    "activation": Method("class activation maps (CAT-KD)", 15, f.activation),
    "pearson": Method("features, standardised (PKD)", 10, f.pearson),
    "singular": Method("main directions, layer by layer (KDSVD)", 1, f.singular),
    "calibration": Method("layers, by attention (SemCKD)", 400, f.calibration),
    "classifier": Method("what the teacher's head reads (SimKD)", 1, f.classifier, 0),
}


@dataclasses.dataclass(frozen=True)
class Config(_methods.Config):
    """A way to match features, against labels alone."""

    method: _run.choice(METHODS) = "hint"
    weight: float | None = None
    """Weight of the method's loss; default: as published, if there is one."""


SMOKE = Config(**_methods.SMOKE)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    return _methods.experiment("feature", config, METHODS)


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
