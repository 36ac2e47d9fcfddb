"""Rows of the policy losses."""

import numpy as np

from tests.losses.law import Law, equal, logits, normal
from tests.losses.references import policy as reference

SHARED = {"leading_axes": True}


def gaussians(rng, batch, scale):
    """Draw means and, of a third of their scale, the logarithms of deviations."""
    shape = (batch, 3)
    return tuple(normal(rng, shape, s) for s in (scale, scale / 3, scale, scale / 3))


ROWS = [
    *(
        Law(
            "policy_kl",
            logits(),
            reference.policy_kl,
            {"temperature": temperature},
            at_minimum=lambda s, t, tau=temperature: (t / np.float32(tau), t),
            shift_invariant=(0, 1),
            minus_inf=True,
            **SHARED,
        )
        for temperature in (0.25, 1.0)
    ),
    Law(
        "policy_nll",
        logits(arrays=1, labels=True),
        reference.policy_nll,
        floats=(0,),
        shift_invariant=(0,),
        minus_inf=True,
        **SHARED,
    ),
    Law("q_regression", logits(), reference.q_regression, at_minimum=equal, **SHARED),
    Law(
        "gaussian_policy_kl",
        gaussians,
        reference.gaussian_policy_kl,
        floats=(0, 1, 2, 3),
        at_minimum=lambda a, b, c, d: (a, b, a, b),
        gradient_bound=1e34,  # σ = exp(−1e4), as far as it counts
        **SHARED,
    ),
]
