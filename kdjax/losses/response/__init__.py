"""Matching what networks say: logits, class probabilities, predicted numbers."""

from kdjax.losses.response.divergence import (
    reverse_kl,
    soft_target_cross_entropy,
    soft_target_kl,
    total_variation,
)
from kdjax.losses.response.labelled import (
    decoupled_kl,
    normalized_kd,
    weighted_soft_labels,
)
from kdjax.losses.response.mixtures import (
    jensen_shannon,
    skew_kl,
    skew_reverse_kl,
)
from kdjax.losses.response.regression import (
    bounded_regression,
    logit_mse,
    probability_mse,
    regression_mse,
)
from kdjax.losses.response.targets import (
    progressive_targets,
    standardize_logits,
    transformed_teacher_matching,
    virtual_teacher,
)

__all__ = [
    "bounded_regression",
    "decoupled_kl",
    "jensen_shannon",
    "logit_mse",
    "normalized_kd",
    "probability_mse",
    "progressive_targets",
    "regression_mse",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "soft_target_cross_entropy",
    "soft_target_kl",
    "standardize_logits",
    "total_variation",
    "transformed_teacher_matching",
    "virtual_teacher",
    "weighted_soft_labels",
]
