"""A plain function as a network."""

import inspect
from collections.abc import Callable
from typing import Any

from kdjax.base import Network, Outputs, Variables
from kdjax.networks._capture import as_outputs


def from_function(
    fn: Callable[..., Any], init: Callable[[Any, Any], Any] | None = None
) -> Network:
    """Return a plain function as a network.

    Args:
      fn: `fn(params, inputs) -> logits or Outputs`; also given `train` or `rngs` if it
        has an argument called so.
      init: `init(key, inputs) -> params`; not needed where the parameters come from
        elsewhere.

    Returns:
      A network whose variables are `{"params": params}`.

    Raises:
      ValueError: when `init` of the network is called and none was given.

    >>> import jax.numpy as jnp
    >>> network = from_function(lambda params, inputs: inputs @ params["w"])
    >>> variables = {"params": {"w": jnp.ones((4, 2))}}
    >>> network.apply(variables, jnp.ones((3, 4)))[0].logits.shape
    (3, 2)
    """
    known = inspect.signature(fn).parameters

    def initialise(key: Any, inputs: Any) -> Variables:
        if init is None:
            raise ValueError(
                "from_function: this network has no init; pass "
                "init=lambda key, inputs: params, or build {'params': params} yourself"
            )
        return {"params": init(key, inputs)}

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        offered = {"train": train, "rngs": rngs}
        taken = {name: value for name, value in offered.items() if name in known}
        return as_outputs(fn(variables["params"], inputs, **taken)), variables

    return Network(initialise, apply)
