"""The table of laws: a list `ROWS` for each file of losses."""
