"""Rows of the response losses."""

import dataclasses

import numpy as np

from tests.losses.law import BATCH, CLASSES, Law, equal, logits, vectors
from tests.losses.references import response


def only_labels(rng, batch, scale):
    return (rng.integers(0, CLASSES, batch).astype(np.int32),)


def _divergence(name, *hypers):
    return [
        Law(
            name,
            logits(),
            getattr(response, name),
            hyper,
            at_minimum=equal,
            shift_invariant=(0, 1),
            masks="classes",
            minus_inf=True,
        )
        for hyper in hypers
    ]


def _labelled(name, *hypers, classes=CLASSES, **flags):
    reference = getattr(response, name)
    make = logits(classes, labels=True)
    flags = {"shift_invariant": (0, 1), "minus_inf": True, **flags}
    return [Law(name, make, reference, hyper, **flags) for hyper in hypers]


def _matching(*settings):
    return [
        Law(
            "transformed_teacher_matching",
            logits(),
            response.transformed_teacher_matching,
            {"power": power},
            {"weighted": weighted},
            at_minimum=lambda s, t, g=power: (np.float32(g) * t, t),
            shift_invariant=(0, 1),
            minus_inf=True,
        )
        for power, weighted in settings
    ]


def _temperatures(*values):
    return [{"temperature": T} for T in values]


_ROWS = [
    *_divergence("soft_target_kl", *_temperatures(1.0, 4.0, 20.0)),
    *_divergence("reverse_kl", *_temperatures(1.0, 4.0)),
    *_divergence("total_variation", *_temperatures(1.0, 4.0)),
    *(
        dataclasses.replace(law, at_minimum=None)
        for law in _divergence("soft_target_cross_entropy", *_temperatures(1.0, 4.0))
    ),
    *_divergence(
        "jensen_shannon",
        {"beta": 0.5, "temperature": 1.0},
        {"beta": 0.1, "temperature": 4.0},
        {"beta": 0.9, "temperature": 20.0},
        {"beta": 0.0, "temperature": 2.0},
        {"beta": 1.0, "temperature": 2.0},
    ),
    *(
        law
        for name in ("skew_kl", "skew_reverse_kl")
        for law in _divergence(
            name,
            {"skew": 0.1, "temperature": 1.0},
            {"skew": 0.6, "temperature": 4.0},
            {"skew": 0.0, "temperature": 2.0},
            {"skew": 1.0, "temperature": 2.0},
        )
    ),
    Law("logit_mse", logits(), response.logit_mse, at_minimum=equal),
    *(
        Law(
            "probability_mse",
            logits(),
            response.probability_mse,
            hyper,
            at_minimum=equal,
            shift_invariant=(0, 1),
            minus_inf=True,
        )
        for hyper in _temperatures(1.0, 4.0)
    ),
    *_labelled(
        "decoupled_kl",
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        {"alpha": 0.5, "beta": 2.0, "temperature": 1.0},
        at_minimum=equal,
    ),
    *_labelled(
        "decoupled_kl",
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        classes=2,
        at_minimum=equal,
    ),
    *_labelled(
        "normalized_kd",
        {"gamma": 1.5, "temperature": 1.0},
        {"gamma": 0.5, "temperature": 4.0},
    ),
    *_labelled("weighted_soft_labels", *_temperatures(2.0, 1.0), detached=True),
    *_matching((0.1, False), (0.5, True), (2.0, True)),
    Law(
        "standardize_logits",
        logits(arrays=1),
        response.standardize_logits,
        floats=(0,),
        shape=(BATCH, CLASSES),
        nonnegative=False,
        shift_invariant=(0,),
        gradient_bound=1e8,
    ),
    *(
        Law(
            "progressive_targets",
            logits(arrays=1, labels=True),
            response.progressive_targets,
            {"amount": amount},
            floats=(0,),
            shape=(BATCH, CLASSES),
            shift_invariant=(0,),
            minus_inf=True,
        )
        for amount in (0.3, 0.0, 1.0)
    ),
    *(
        Law(
            "virtual_teacher",
            only_labels,
            response.virtual_teacher,
            {"correct": correct},
            {"num_classes": CLASSES},
            floats=(),
            shape=(BATCH, CLASSES),
            nonnegative=False,
        )
        for correct in (0.99, 0.3)
    ),
    *(
        Law(
            "bounded_regression",
            vectors(3, *dim),
            response.bounded_regression,
            {"margin": margin},
            floats=(0, 1, 2),
            at_minimum=lambda s, t, y: (y, t, y),
        )
        for dim in ((3,), ())
        for margin in (0.0, 0.7)
    ),
    *(
        Law(
            "regression_mse",
            vectors(2, *dim),
            response.regression_mse,
            at_minimum=equal,
        )
        for dim in ((3,), ())
    ),
]

# Regressors give one vector per example; logits may have any leading axes.
ROWS = [
    dataclasses.replace(law, leading_axes="regression" not in law.name) for law in _ROWS
]
