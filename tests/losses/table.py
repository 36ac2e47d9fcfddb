"""All rows, and how tests choose among them."""

import dataclasses

import pytest

from tests.losses.law import Law, one_per_loss, one_per_program
from tests.losses.rows import (
    feature_hints,
    feature_structure,
    policy,
    ranking,
    relation_classes,
    relation_geometry,
    response,
    sequence,
    tokens,
)

ROWS = [
    *response.ROWS,
    *feature_hints.ROWS,
    *feature_structure.ROWS,
    *relation_geometry.ROWS,
    *relation_classes.ROWS,
    *sequence.ROWS,
    *tokens.ROWS,
    *ranking.ROWS,
    *policy.ROWS,
]
ONE_EACH = one_per_loss(ROWS)
OPTIMIZED = {law.compiled for law in ONE_EACH}
LAWS = [dataclasses.replace(law, quick=law.compiled not in OPTIMIZED) for law in ROWS]
PROGRAMS = one_per_program(LAWS)
IN_FLOAT64 = {law.compiled for law in PROGRAMS}
# What is tabled but is not a loss: given to losses, or made from labels.
NOT_LOSSES = {
    *("standardize_logits", "progressive_targets", "virtual_teacher"),
    *("flow_matrix", "margin_from_batch_norm"),
}
# No function of arrays, so it has no row.
NOT_ARRAYS = {"align_layers"}

# Module scope lets pytest run all laws of a row together, where they share programs.
each_law = pytest.mark.parametrize("law", LAWS, ids=str, scope="module")
each_program = pytest.mark.parametrize("law", PROGRAMS, ids=str, scope="module")
each_loss = pytest.mark.parametrize("law", ONE_EACH, ids=str, scope="module")


def having(laws: list[Law], flag: str, *values):
    """Parametrise by the rows whose `flag` is set, or has one of these values."""

    def chosen(law):
        value = getattr(law, flag)
        return value in values if values else bool(value)

    return pytest.mark.parametrize(
        "law", [law for law in laws if chosen(law)], ids=str, scope="module"
    )


def replace(args, positions, change):
    """Return the arrays with those at `positions` changed."""
    return tuple(change(a) if i in positions else a for i, a in enumerate(args))
