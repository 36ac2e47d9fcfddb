"""Rows of the sequence losses."""

from tests.losses.law import Law

ROWS: list[Law] = []
