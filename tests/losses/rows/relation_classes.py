"""Rows of losses in `relation_classes`."""

from tests.losses.law import Law

ROWS: list[Law] = []
