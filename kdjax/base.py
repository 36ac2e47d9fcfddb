"""The ideas everything is made of: what a network says, what it is, what it reads."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array as Array

PyTree = Any
Batch = Mapping[str, Any]
Select = str | Callable[[Batch], Any]
"""What networks read of a batch: a field by name, or a function of the batch."""
Variables = dict[str, Any]
"""`{"params": ..., "batch_stats": ..., ...}`, as Flax has it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    Attributes:
      logits: `[batch, ..., classes]`, or the prediction of a regressor.
      features: the intermediate arrays that the caller chose, by name.
    """

    logits: Any
    features: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a pair of pure functions; its parameters live outside it.

    Attributes:
      init: `init(key, inputs) -> variables`.
      apply: `apply(variables, inputs, *, train=False, rngs=None) -> (Outputs,
        variables)`. The returned variables differ from the given ones only where
        the network updates them itself (batch statistics in training).
        `rngs` is one random key, or a dict of them by stream. If it also takes
        `teacher`, the train step hands it the teacher's `Outputs`.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Outputs, Variables]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Padded:
    """A batch that was filled up, so that every device gets as many rows.

    `rows` takes the filling off again inside of a compiled function: what is computed
    there is that of the batch as it was, and XLA masks what the devices hold beyond it.

    Attributes:
      arrays: the batch, leaves `[at least count, ...]`.
      count: how many of the rows are examples.
    """

    arrays: Any
    count: int = dataclasses.field(metadata={"static": True})


def rows(batch: Any) -> Any:
    """Return a batch without the rows that only fill it up.

    >>> rows(Padded({"label": jax.numpy.arange(4)}, count=3))["label"].shape
    (3,)
    """
    if not isinstance(batch, Padded):
        return batch
    return jax.tree.map(lambda x: x[: batch.count], batch.arrays)


def pick(batch: Batch, inputs: Select) -> Any:
    """Return what networks read of a batch.

    Raises:
      ValueError: if the batch has no such field; it lists those it has.

    >>> pick({"text": 1, "label": 2}, "text")
    1
    """
    if callable(inputs):
        return inputs(batch)
    if inputs not in batch:
        raise ValueError(
            f"the batch has no field {inputs!r}, only {sorted(batch)}; "
            "say which one the networks read with inputs="
        )
    return batch[inputs]
