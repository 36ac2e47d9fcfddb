"""Rows of the ranking losses."""

from tests.losses.law import Law

ROWS: list[Law] = []
