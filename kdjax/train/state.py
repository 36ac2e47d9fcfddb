"""What training changes: one small immutable pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from kdjax.base import Network, PyTree, Variables
from kdjax.teachers import Past
from kdjax.train.sharding import Shardings


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
      past: what is kept of earlier variables, for a student that is its own teacher
        (`teachers.ema`, `teachers.snapshots`); usually nothing.
    """

    step: Array
    params: PyTree
    rest: dict[str, PyTree]
    opt_state: PyTree
    key: Array
    skipped: Array
    skipped_in_a_row: Array
    past: PyTree = ()

    @property
    def variables(self) -> Variables:
        """The network's variables, as its `apply` takes them."""
        return {"params": self.params, **self.rest}


def init(
    network: Network,
    tx: optax.GradientTransformation,
    key: Array,
    inputs: Any,
    *,
    past: Past | None = None,
    shardings: Shardings | None = None,
) -> TrainState:
    """Return the state before the first step of a new network.

    Args:
      network: the student.
      tx: the optimizer.
      key: random key: one half initialises, the other becomes the state's.
      inputs: a batch of inputs; only its shapes and dtypes count.
      past: what to keep of the network's past, the same as the step's.
      shardings: where it shall lie; no device then ever holds more than its part.

    Returns:
      A `TrainState` at step 0.
    """

    def start(key: Array) -> TrainState:
        init_key, state_key = jax.random.split(key)
        variables = network.init(init_key, inputs)
        return from_variables(variables, tx, state_key, past=past)

    if shardings is None:
        return start(key)
    where = shardings.of(jax.eval_shape(start, key))
    return jax.jit(start, out_shardings=where)(key)


def from_variables(
    variables: Variables,
    tx: optax.GradientTransformation,
    key: Array,
    *,
    past: Past | None = None,
) -> TrainState:
    """Return the state before the first step of a network that has variables already.

    They are copied: the step donates the state's arrays, and the caller may still need
    his (a student that starts from its teacher, say).

    Raises:
      ValueError: if `variables` has no `params`, or for a `past` that is none.
    """
    if "params" not in variables:
        raise ValueError(
            f"train.from_variables: needs variables['params'], got {sorted(variables)}"
        )
    check_past("train.from_variables", past)
    copied = jax.tree.map(jnp.array, dict(variables))
    # Copied as well: an optimizer or a past may keep the very arrays it is given, and
    # one buffer cannot be donated twice.
    remembered = jax.tree.map(jnp.array, past.init(copied)) if past else ()
    params = copied.pop("params")
    opt_state = jax.tree.map(jnp.array, tx.init(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=copied,
        opt_state=opt_state,
        key=jnp.array(key),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        past=remembered,
    )


def check_past(function: str, past: Any) -> None:
    """Raise unless it is None or a `teachers.Past`."""
    if past is not None and not isinstance(past, Past):
        raise ValueError(
            f"{function}: past must be teachers.ema(...), teachers.snapshots(...) or "
            f"another teachers.Past, got {past!r}"
        )
