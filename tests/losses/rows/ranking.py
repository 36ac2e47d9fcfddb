"""Rows of the ranking losses."""

from tests.losses.law import Law, equal, logits, shaped, vectors
from tests.losses.references import ranking as reference

ROWS = [
    *(
        Law(
            "ranking_distillation",
            shaped((7,), (3,)),
            reference.ranking_distillation,
            {"position_temperature": spread, "discrepancy": sharpness},
        )
        for spread, sharpness in ((1.0, 0.1), (10.0, 0.5))
    ),
    *(
        Law(
            "listwise_kl",
            logits(),
            reference.listwise_kl,
            {"temperature": temperature},
            at_minimum=equal,
            shift_invariant=(0, 1),
            masks="classes",
            leading_axes=True,
            minus_inf=True,
        )
        for temperature in (1.0, 4.0)
    ),
    Law(
        "margin_mse",
        vectors(4),
        reference.margin_mse,
        floats=(0, 1, 2, 3),
        at_minimum=lambda a, b, c, d: (a, b, a, b),
        leading_axes=True,
    ),
]
