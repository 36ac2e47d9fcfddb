"""Matching sequences: tokens, frames, large vocabularies."""

from kdjax.losses.sequence.linear import linear_divergence, sum_linear_divergence
from kdjax.losses.sequence.tokens import align_layers, ctc_frames, top_k_kl

__all__ = [
    "align_layers",
    "ctc_frames",
    "linear_divergence",
    "sum_linear_divergence",
    "top_k_kl",
]
