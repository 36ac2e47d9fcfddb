"""Rows of losses in `feature_structure`."""

from tests.losses.law import Law

ROWS: list[Law] = []
