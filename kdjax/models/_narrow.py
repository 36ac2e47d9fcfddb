"""Models that can be built with fewer units than they were made for."""

from collections.abc import Mapping
from typing import Any, Self

from flax import core

from kdjax.units import Units, checked_sizes


class Narrowable:
    """A Linen module with `units()`, and with a field `sizes` that it obeys."""

    clone: Any  # of the module

    def units(self) -> dict[str, Units]:
        """Return the units that can be pruned, by name."""
        raise NotImplementedError

    def narrowed(self, sizes: Mapping[str, int]) -> Self:
        """Return the network with fewer units, for variables that `prune` has cut.

        Args:
          sizes: number of units by name, as `prune.sizes` returns them.

        Raises:
          ValueError: for a name that `units` does not have, or too large a number.

        >>> from kdjax import models
        >>> model = models.MLP(classes=10, width=32)
        >>> sorted(model.narrowed({"hidden2": 20}).sizes.items())
        [('hidden1', 32), ('hidden2', 20)]
        """
        name = f"{type(self).__name__}.narrowed"
        left = checked_sizes(name, self.units(), sizes)
        return self.clone(sizes=core.FrozenDict(left))
