"""A table over two settings."""

import dataclasses
from typing import Any

from kdjax.report.results import Result, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Result):
    """What students of many settings reach: one figure for each pair of two settings.

    Every row of the result is a cell. Its `settings` hold its place, and the
    `validation_accuracy` that the best is chosen by: never by the test split.

    Attributes:
      down: the setting that changes from line to line, by name.
      across: the one that changes from column to column.
    """

    down: str
    across: str

    def values(self, axis: str) -> list[float]:
        """Return the values of one of the two settings, in the order of the rows."""
        return list(dict.fromkeys(row.settings[axis] for row in self.rows))

    def at(self, down: float, across: float) -> Row:
        """Return the row in one place."""
        [row] = [
            row
            for row in self.rows
            if (row.settings[self.down], row.settings[self.across]) == (down, across)
        ]
        return row

    @property
    def best(self) -> Row:
        """The row with the highest validation accuracy; of equals the first."""
        return max(self.rows, key=lambda row: row.settings["validation_accuracy"])

    def cells(self) -> list[list[str]]:
        """Return the table as text, headings first; a star marks the best."""
        across = self.values(self.across)
        heading = [f"{self.down} \\ {self.across}", *(f"{x:g}" for x in across)]
        lines = [
            [f"{y:g}", *(self._marked(self.at(y, x)) for x in across)]
            for y in self.values(self.down)
        ]
        return [heading, *lines]

    def _marked(self, row: Row) -> str:
        star = "* " if row is self.best else ""
        return star + self._figure(row, "accuracy")

    def sentences(self) -> list[str]:
        """Return what stands below the table: first which setting is best."""
        best = self.best
        chosen = (
            f"The star: of {len(self.rows)} settings, {best.name} is best on the "
            f"validation split ({100 * best.settings['validation_accuracy']:.2f} %); "
            f"on the test split it has {self._figure(best, 'accuracy')} %."
        )
        return [chosen, *super().sentences()]

    def json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**super().json(), "best": self.best.name}
