"""What training changes: one small immutable pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from kdjax.base import Network, PyTree, Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Attributes:
      step: number of steps done.
      params: what the optimizer trains.
      rest: the network's other variables, such as batch statistics.
      opt_state: the optimizer's state.
      key: a random key that never changes; each step uses `fold_in(key, step)`, so that
        a resumed run repeats an uninterrupted one exactly.
      skipped: steps skipped because something in them was not finite.
      skipped_in_a_row: those since the last good step.
    """

    step: Array
    params: PyTree
    rest: dict[str, PyTree]
    opt_state: PyTree
    key: Array
    skipped: Array
    skipped_in_a_row: Array

    @property
    def variables(self) -> Variables:
        """The network's variables, as its `apply` takes them."""
        return {"params": self.params, **self.rest}


def init(
    network: Network, tx: optax.GradientTransformation, key: Array, inputs: Any
) -> TrainState:
    """Return the state before the first step of a new network.

    Args:
      network: the student.
      tx: the optimizer.
      key: random key: one half initialises, the other becomes the state's.
      inputs: a batch of inputs; only its shapes and dtypes count.

    Returns:
      A `TrainState` at step 0.
    """
    init_key, state_key = jax.random.split(key)
    return from_variables(network.init(init_key, inputs), tx, state_key)


def from_variables(
    variables: Variables, tx: optax.GradientTransformation, key: Array
) -> TrainState:
    """Return the state before the first step of a network that has variables already.

    They are copied: the step donates the state's arrays, and the caller may still need
    his (a student that starts from its teacher, say).

    Raises:
      ValueError: if `variables` has no `params`.
    """
    if "params" not in variables:
        raise ValueError(
            f"train.from_variables: needs variables['params'], got {sorted(variables)}"
        )
    copied = jax.tree.map(jnp.array, dict(variables))
    params = copied.pop("params")
    # copied as well: some optimizers keep the very arrays they are given, and one
    # buffer cannot be donated twice
    opt_state = jax.tree.map(jnp.array, tx.init(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=copied,
        opt_state=opt_state,
        key=jnp.array(key),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )
