"""One row per loss and setting; a row is all a new loss needs to get the shared laws.

A later room adds its rows to a list of its own here and its references beside
`references/response.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax import losses
from tests.losses.references import response

BATCH, CLASSES = 8, 5
Args = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Law:
    """A loss, how to call it, and what is true of it.

    Attributes:
      name: its name in `kdjax.losses`.
      make: `make(rng, batch, scale)` draws its arrays, batch first, float32 and int32.
      reference: the same function of float64 arrays, in NumPy.
      hyper: number hyper-parameters, traced in the tests.
      static: keyword arguments that are not traced.
      floats: positions of the arrays that have a gradient.
      shape: the documented shape of what `make`'s arrays give.
      at_minimum: arrays made into ones where every value is 0.
      nonnegative: whether no value is below 0.
      shift_invariant: positions of logits to which each row may add a constant.
      takes_where: whether `where` masks the last axis of every float array.
      leading_axes: whether any number of leading axes is allowed.
      minus_inf: whether a logit of −inf is allowed.
      detached: whether a part has no gradient by definition (no finite differences).
      gradient_bound: the largest gradient at inputs up to 1e4.
    """

    name: str
    make: Callable[[np.random.Generator, int, float], Args]
    reference: Callable[..., Any]
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    floats: tuple[int, ...] = (0, 1)
    shape: tuple[int, ...] = (BATCH,)
    at_minimum: Callable[..., Args] | None = None
    nonnegative: bool = True
    shift_invariant: tuple[int, ...] = ()
    takes_where: bool = False
    leading_axes: bool = True
    minus_inf: bool = False
    detached: bool = False
    gradient_bound: float = 1e6

    @property
    def fn(self) -> Callable[..., Any]:
        return getattr(losses, self.name)

    @property
    def program(self) -> tuple[Any, ...]:
        """Rows that differ only in traced numbers share one compiled program."""
        return self.name, tuple(self.static.items())

    def draw(self, seed: int = 0, scale: float = 1.0) -> Args:
        return self.make(np.random.default_rng(seed), BATCH, scale)

    def __str__(self) -> str:
        settings = {**self.hyper, **self.static}
        text = ",".join(f"{k}={v}" for k, v in settings.items())
        width = "x".join(str(n) for n in self.draw()[0].shape[1:])
        return f"{self.name}[{width}][{text}]"


def _normal(rng, shape, scale):
    return (scale * rng.normal(size=shape)).astype(np.float32)


def logits(classes=CLASSES, arrays=2, labels=False):
    """Return a maker of student and teacher logits, and labels."""

    def make(rng, batch, scale):
        drawn = [_normal(rng, (batch, classes), scale) for _ in range(arrays)]
        if labels:
            drawn.append(rng.integers(0, classes, batch).astype(np.int32))
        return tuple(drawn)

    return make


def only_labels(rng, batch, scale):
    return (rng.integers(0, CLASSES, batch).astype(np.int32),)


def vectors(arrays, *dim):
    """Return a maker of regressors' outputs."""
    return lambda rng, batch, scale: tuple(
        _normal(rng, (batch, *dim), scale) for _ in range(arrays)
    )


def equal(student, *others):
    """Student and teacher are the same."""
    return (student, student, *others[1:])


def _divergence(name, *hypers):
    return [
        Law(
            name,
            logits(),
            getattr(response, name),
            hyper,
            at_minimum=equal,
            shift_invariant=(0, 1),
            takes_where=True,
            minus_inf=True,
        )
        for hyper in hypers
    ]


def _labelled(name, *hypers, classes=CLASSES, **flags):
    reference = getattr(response, name)
    make = logits(classes, labels=True)
    flags = {"shift_invariant": (0, 1), "minus_inf": True, **flags}
    return [Law(name, make, reference, hyper, **flags) for hyper in hypers]


def _matching(*settings):
    return [
        Law(
            "transformed_teacher_matching",
            logits(),
            response.transformed_teacher_matching,
            {"power": power},
            {"weighted": weighted},
            at_minimum=lambda s, t, g=power: (np.float32(g) * t, t),
            shift_invariant=(0, 1),
            minus_inf=True,
        )
        for power, weighted in settings
    ]


def _temperatures(*values):
    return [{"temperature": T} for T in values]


RESPONSE = [
    *_divergence("soft_target_kl", *_temperatures(1.0, 4.0, 20.0)),
    *_divergence("reverse_kl", *_temperatures(1.0, 4.0)),
    *_divergence("total_variation", *_temperatures(1.0, 4.0)),
    *(
        dataclasses.replace(law, at_minimum=None)
        for law in _divergence("soft_target_cross_entropy", *_temperatures(1.0, 4.0))
    ),
    *_divergence(
        "jensen_shannon",
        {"beta": 0.5, "temperature": 1.0},
        {"beta": 0.1, "temperature": 4.0},
        {"beta": 0.9, "temperature": 20.0},
        {"beta": 0.0, "temperature": 2.0},
        {"beta": 1.0, "temperature": 2.0},
    ),
    *(
        law
        for name in ("skew_kl", "skew_reverse_kl")
        for law in _divergence(
            name,
            {"skew": 0.1, "temperature": 1.0},
            {"skew": 0.6, "temperature": 4.0},
            {"skew": 0.0, "temperature": 2.0},
            {"skew": 1.0, "temperature": 2.0},
        )
    ),
    Law("logit_mse", logits(), response.logit_mse, at_minimum=equal),
    *(
        Law(
            "probability_mse",
            logits(),
            response.probability_mse,
            hyper,
            at_minimum=equal,
            shift_invariant=(0, 1),
            minus_inf=True,
        )
        for hyper in _temperatures(1.0, 4.0)
    ),
    *_labelled(
        "decoupled_kl",
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        {"alpha": 0.5, "beta": 2.0, "temperature": 1.0},
        at_minimum=equal,
    ),
    *_labelled(
        "decoupled_kl",
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        classes=2,
        at_minimum=equal,
    ),
    *_labelled(
        "normalized_kd",
        {"gamma": 1.5, "temperature": 1.0},
        {"gamma": 0.5, "temperature": 4.0},
    ),
    *_labelled("weighted_soft_labels", *_temperatures(2.0, 1.0), detached=True),
    *_matching((0.1, False), (0.5, True), (2.0, True)),
    Law(
        "standardize_logits",
        logits(arrays=1),
        response.standardize_logits,
        floats=(0,),
        shape=(BATCH, CLASSES),
        nonnegative=False,
        shift_invariant=(0,),
        gradient_bound=1e8,
    ),
    *(
        Law(
            "progressive_targets",
            logits(arrays=1, labels=True),
            response.progressive_targets,
            {"amount": amount},
            floats=(0,),
            shape=(BATCH, CLASSES),
            shift_invariant=(0,),
            minus_inf=True,
        )
        for amount in (0.3, 0.0, 1.0)
    ),
    *(
        Law(
            "virtual_teacher",
            only_labels,
            response.virtual_teacher,
            {"correct": correct},
            {"num_classes": CLASSES},
            floats=(),
            shape=(BATCH, CLASSES),
            nonnegative=False,
        )
        for correct in (0.99, 0.3)
    ),
    *(
        Law(
            "bounded_regression",
            vectors(3, *dim),
            response.bounded_regression,
            {"margin": margin},
            floats=(0, 1, 2),
            at_minimum=lambda s, t, y: (y, t, y),
            leading_axes=False,
        )
        for dim in ((3,), ())
        for margin in (0.0, 0.7)
    ),
    *(
        Law(
            "regression_mse",
            vectors(2, *dim),
            response.regression_mse,
            at_minimum=equal,
            leading_axes=False,
        )
        for dim in ((3,), ())
    ),
]

LAWS = RESPONSE
# What is tabled above but is not a loss: given to losses, or made from labels.
NOT_LOSSES = {"standardize_logits", "progressive_targets", "virtual_teacher"}


def one_per_program(laws: list[Law]) -> list[Law]:
    """Return the first row of each program, for laws that compile it anew."""
    return list({law.program: law for law in reversed(laws)}.values())[::-1]
