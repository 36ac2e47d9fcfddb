"""Matching structure between the examples of a batch."""

from kdjax.losses.relation.angles import rkd_angle
from kdjax.losses.relation.classes import (
    batch_gram,
    class_gram,
    inter_class_correlation,
    intra_class_correlation,
)
from kdjax.losses.relation.contrast import contrastive, noise_contrastive
from kdjax.losses.relation.distances import rkd_distance
from kdjax.losses.relation.graph import relation_graph
from kdjax.losses.relation.order import rank_order
from kdjax.losses.relation.similarities import (
    correlation_congruence,
    probabilistic_transfer,
    similarity_preserving,
)

__all__ = [
    "batch_gram",
    "class_gram",
    "contrastive",
    "correlation_congruence",
    "inter_class_correlation",
    "intra_class_correlation",
    "noise_contrastive",
    "probabilistic_transfer",
    "rank_order",
    "relation_graph",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]
