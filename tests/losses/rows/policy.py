"""Rows of the policy losses."""

from tests.losses.law import Law

ROWS: list[Law] = []
