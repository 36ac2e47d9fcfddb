"""Distillation losses: pure functions of arrays that return unreduced values.

Student first, teacher second, labels third; hyper-parameters by keyword. The `.mean()`
of what a loss returns is the loss as published, before its trainer's weight.
"""

from kdjax.losses.response import (
    bounded_regression,
    decoupled_kl,
    jensen_shannon,
    logit_mse,
    normalized_kd,
    probability_mse,
    progressive_targets,
    regression_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    soft_target_cross_entropy,
    soft_target_kl,
    standardize_logits,
    total_variation,
    transformed_teacher_matching,
    virtual_teacher,
    weighted_soft_labels,
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
