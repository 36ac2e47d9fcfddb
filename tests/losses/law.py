"""A row per loss and setting: all that a new loss needs to get the shared laws."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from kdjax import losses

BATCH, CLASSES = 8, 5
Args = tuple[np.ndarray, ...]


@functools.cache
def _adapted(name: str, adapt: Callable[..., Any]) -> Callable[..., Any]:
    return adapt(getattr(losses, name))


@dataclasses.dataclass(frozen=True)
class Law:
    """A loss, how to call it, and what is true of it.

    Attributes:
      name: its name in `kdjax.losses`.
      make: `make(rng, batch, scale)` draws its arrays, batch first, float32 and int32.
      reference: the same function of float64 arrays, in NumPy.
      hyper: number hyper-parameters, traced in the tests.
      static: keyword arguments that are not traced.
      adapt: makes of the loss a function of flat arrays that returns one array, for
        those that take or return more than that; a function of module level.
      floats: positions of the arrays that have a gradient.
      unbatched: positions of arrays without a batch axis: parameters of the loss.
      shape: the documented shape of what `make`'s arrays give.
      values: what the first axis of the values counts: the examples, or something else
        ("other": classes, a scalar) that does not follow the order of the examples.
      follows_order: whether permuting the examples permutes the values (or, if those
        count something else, changes nothing).
      per_example: whether a value depends on its own example only.
      alone: what every value is for a batch of one, where that is documented.
      at_minimum: arrays made into ones where every value is 0.
      nonnegative: whether no value is below 0.
      shift_invariant: positions of logits to which each row may add a constant.
      scale_invariant: positions of arrays that may be scaled: their gradient is as
        large as they are small, so it is bounded relative to that.
      masks: what `where` masks: the classes (last axis of every float array), the
        examples (`[batch]`), or nothing.
      axis_name: whether the batch may be spread over a named axis.
      leading_axes: whether any number of leading axes is allowed.
      minus_inf: whether a logit of −inf is allowed.
      detached: whether a part has no gradient by definition (no finite differences).
      gradient_bound: the largest gradient at inputs up to 1e4.
      quick: whether to compile without optimisation, as for all but the first row of a
        loss.
    """

    name: str
    make: Callable[[np.random.Generator, int, float], Args]
    reference: Callable[..., Any]
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapt: Callable[..., Any] | None = None
    floats: tuple[int, ...] = (0, 1)
    unbatched: tuple[int, ...] = ()
    shape: tuple[int, ...] = (BATCH,)
    values: Literal["examples", "other"] = "examples"
    follows_order: bool = True
    per_example: bool = True
    alone: float | None = None
    at_minimum: Callable[..., Args] | None = None
    nonnegative: bool = True
    shift_invariant: tuple[int, ...] = ()
    scale_invariant: tuple[int, ...] = ()
    masks: Literal["classes", "examples"] | None = None
    axis_name: bool = False
    leading_axes: bool = False
    minus_inf: bool = False
    detached: bool = False
    gradient_bound: float = 1e6
    quick: bool = False

    @property
    def fn(self) -> Callable[..., Any]:
        if self.adapt is not None:
            return _adapted(self.name, self.adapt)
        return getattr(losses, self.name)

    @property
    def program(self) -> tuple[Any, ...]:
        """What rows that differ only in traced numbers and shapes have in common."""
        return self.name, self.adapt, tuple(self.static.items())

    @functools.cached_property
    def compiled(self) -> tuple[Any, ...]:
        """What is compiled once for all rows that have it in common."""
        return *self.program, *(array.shape for array in self.draw())

    def draw(self, seed: int = 0, scale: float = 1.0, batch: int = BATCH) -> Args:
        return self.make(np.random.default_rng(seed), batch, scale)

    def by_example(self, args: Args, change: Callable[[Any], Any]) -> Args:
        """Return the arrays with those that have a batch axis changed."""
        return tuple(
            a if i in self.unbatched else change(a) for i, a in enumerate(args)
        )

    def __str__(self) -> str:
        settings = {**self.hyper, **self.static}
        text = ",".join(f"{k}={v}" for k, v in settings.items())
        width = "x".join(str(n) for n in self.draw()[0].shape[1:])
        return f"{self.name}[{width}][{text}]"


def normal(rng, shape, scale=1.0):
    return (scale * rng.normal(size=shape)).astype(np.float32)


def logits(classes=CLASSES, arrays=2, labels=False):
    """Return a maker of student and teacher logits, and labels."""

    def make(rng, batch, scale):
        drawn = [normal(rng, (batch, classes), scale) for _ in range(arrays)]
        if labels:
            drawn.append(rng.integers(0, classes, batch).astype(np.int32))
        return tuple(drawn)

    return make


def shaped(*shapes):
    """Return a maker of one array per shape, each `[batch, *shape]`."""
    return lambda rng, batch, scale: tuple(
        normal(rng, (batch, *shape), scale) for shape in shapes
    )


def vectors(arrays, *dim):
    """Return a maker of regressors' outputs."""
    return shaped(*[dim] * arrays)


def equal(student, *others):
    """Student and teacher are the same."""
    return (student, student, *others[1:])


def one_per_loss(laws: list[Law]) -> list[Law]:
    """Return the first row of each loss, for laws that compile it several times."""
    return list({law.name: law for law in reversed(laws)}.values())[::-1]


def one_per_program(laws: list[Law]) -> list[Law]:
    """Return the first row of each program, for laws that compile it anew."""
    return list({law.program: law for law in reversed(laws)}.values())[::-1]
