"""Rows of losses in `feature_hints`."""

from tests.losses.law import Law

ROWS: list[Law] = []
