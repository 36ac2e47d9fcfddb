"""Does a student learn more when it keeps how its teacher's examples lie to each other?

One teacher; then, with equal budgets, the same student on labels alone and with one of
the published ways to match relations beside the labels (RKD, Park et al. 2019,
https://arxiv.org/abs/1904.05068, and others). --method says which. Widths may differ:
relations have no channels.

python -m experiments.relation                         # digits, a minute on 2 cores
python -m experiments.relation --method similarity --seeds 3 --student.width 2
python -m experiments.relation --method rkd --layers pooled stage2 --weight 0.5
python -m experiments.relation --smoke                 # seconds
python -m experiments.relation --dataset cifar100 --augment crop flip
    --teacher.depth 32 --teacher.width 4 --student.width 4 --schedule stairs
    --steps 168750 --teacher-steps 168750              # an accelerator
"""

import dataclasses

from experiments import _methods, _run
from experiments import _relations as r
from experiments._methods import Method
from kdjax import report

METHODS = {
    "rkd": Method("distances and angles (RKD)", 1, r.rkd),
    "similarity": Method("which maps excite alike (SP)", 3000, r.similarity),
    "probabilistic": Method("who is whose neighbour (PKT)", 30_000, r.probabilistic),
    "congruence": Method("a kernel of embeddings (CC)", 100, r.congruence),
    "classes": Method("order of classes and of examples (DIST)", 2, r.classes),
    "grams": Method("logits, their products and both grams (MLKD)", 1, r.grams),
    "contrast": Method("each example among all others (CRD)", 0.8, r.contrast),
    "order": Method("who is nearest, in order (DarkRank)", 1, r.order),
    "graph": Method("distances, and how depth moves them (IRG)", 1, r.graph),
}


@dataclasses.dataclass(frozen=True)
class Config(_methods.Config):
    """A way to match relations, against labels alone."""

    method: _run.choice(METHODS) = "rkd"
    weight: float | None = None
    """Weight of the method's loss; default: as published, if there is one."""


SMOKE = Config(**_methods.SMOKE)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    return _methods.experiment("relation", config, METHODS)


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
