"""Units: the neurons, filters and heads that can be taken out of a network one by one.

A unit has entries in several arrays: the weights that make it, the next layer's weights
that read it, its batch statistics. A `Units` says where, so that `compress.prune` can
silence and remove it in any network; `models.MLP(...).units()` and the like say it of
the library's own.
"""

import dataclasses
from collections.abc import Mapping

from kdjax import checks
from kdjax.base import Variables
from kdjax.trees import select


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an array has one entry, or several, for each unit.

    Attributes:
      path: of the array in the variables, such as `"params/dense1/kernel"`.
      axis: along which the units lie.
      start: index of the first unit.
      repeats: how many runs of all units follow each other, such as one for each gate
        of a recurrent layer.
    """

    path: str
    axis: int
    start: int = 0
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Units:
    """A layer of units that go or stay together in all its places.

    Attributes:
      size: how many units.
      silenced: where zeros make a unit say nothing but 0: its weights, bias and scale.
        Its score is that of its weights here.
      indexed: the other places: weights that read the units, statistics of them.

    Raises:
      ValueError: without units, or a place where they are silenced.
    """

    size: int
    silenced: tuple[Place, ...]
    indexed: tuple[Place, ...]

    def __post_init__(self) -> None:
        """Check that there is something to prune."""
        checks.integer("Units", 1, size=self.size)
        if not self.silenced:
            raise ValueError("Units: silenced must name the weights that make them")

    @property
    def places(self) -> tuple[Place, ...]:
        """All of them."""
        return self.silenced + self.indexed


def check(
    function: str,
    variables: Variables,
    layers: Mapping[str, Units],
    *,
    silenced_only: bool = False,
) -> None:
    """Raise unless every place is there and long enough.

    Args:
      function: whose arguments these are.
      variables: of the network.
      layers: its units.
      silenced_only: whether the places where units are silenced will do.

    Raises:
      ValueError: that names the layer and the array.
    """
    arrays = select(variables, lambda *_: True)
    for name, units in layers.items():
        for place in units.silenced if silenced_only else units.places:
            if place.path not in arrays:
                known = ", ".join(list(arrays)[:8])
                raise ValueError(
                    f"{function}: units {name!r} lie in {place.path!r}, but the "
                    f"variables have no such array; they have {known}, ..."
                )
            shape = arrays[place.path].shape
            end = place.start + place.repeats * units.size
            least = min(place.axis, place.start, place.repeats - 1)
            if least < 0 or place.axis >= len(shape) or end > shape[place.axis]:
                raise ValueError(
                    f"{function}: units {name!r} take the entries {place.start} to "
                    f"{end - 1} along axis {place.axis} of {place.path!r}, but its "
                    f"shape is {list(shape)}"
                )


def checked_sizes(
    function: str, layers: Mapping[str, Units], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Return how many units each layer is to have.

    Raises:
      ValueError: for a layer that is not there, or a number of units that cannot be.
    """
    for name, size in sizes.items():
        if name not in layers:
            raise ValueError(
                f"{function}: no units are called {name!r}, only {', '.join(layers)}"
            )
        if not 0 < size <= layers[name].size:
            raise ValueError(
                f"{function}: {name!r} has {layers[name].size} units and can be "
                f"narrowed to 1 to {layers[name].size}, got {size}"
            )
    return {name: int(sizes.get(name, units.size)) for name, units in layers.items()}
