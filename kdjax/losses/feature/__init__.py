"""Matching what is inside: feature maps and attention."""

from kdjax.losses.feature.attention import attention_map_kl, value_relation
from kdjax.losses.feature.boundaries import (
    activation_boundary,
    margin_from_batch_norm,
    margin_relu_l2,
)
from kdjax.losses.feature.channels import (
    channel_correlation,
    channel_wise_kl,
    pearson_features,
)
from kdjax.losses.feature.context import (
    class_activation,
    hierarchical_context,
    semantic_calibration,
)
from kdjax.losses.feature.elements import (
    cosine_hint,
    factor_transfer,
    hint,
    variational_information,
)
from kdjax.losses.feature.singular import singular_value
from kdjax.losses.feature.spatial import (
    attention_transfer,
    flow_matrix,
    flow_of_solution,
    neuron_selectivity,
)

__all__ = [
    "activation_boundary",
    "attention_map_kl",
    "attention_transfer",
    "channel_correlation",
    "channel_wise_kl",
    "class_activation",
    "cosine_hint",
    "factor_transfer",
    "flow_matrix",
    "flow_of_solution",
    "hierarchical_context",
    "hint",
    "margin_from_batch_norm",
    "margin_relu_l2",
    "neuron_selectivity",
    "pearson_features",
    "semantic_calibration",
    "singular_value",
    "value_relation",
    "variational_information",
]
