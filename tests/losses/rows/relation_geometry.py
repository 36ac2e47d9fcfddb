"""Rows of losses in `relation_geometry`."""

from tests.losses.law import Law

ROWS: list[Law] = []
