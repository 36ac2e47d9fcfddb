"""A network whose parameters pass through a function first."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from kdjax.base import Network, Outputs, PyTree, Variables


def transformed(network: Network, transform: Callable[[PyTree], PyTree]) -> Network:
    """Return the network that computes with `transform(params)`.

    The parameters that are trained and saved stay as they are; gradients pass through
    the transform. So one network is trained quantized, masked or reparametrised, by the
    same objectives as any other.

    Args:
      network: any network.
      transform: pure `transform(params) -> params` of one structure, such as
        `compress.quantize.straight_through(method)`.

    Returns:
      A network with the same variables.

    Raises:
      ValueError: when applied to variables without params.

    >>> import jax.numpy as jnp
    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, x: x @ params)
    >>> doubled = transformed(linear, lambda params: 2 * params)
    >>> doubled.apply({"params": jnp.eye(2)}, jnp.ones((1, 2)))[0].logits
    Array([[2., 2.]], dtype=float32)
    """

    @functools.wraps(network.apply)  # a step asks for the arguments it takes
    def apply(
        variables: Variables, inputs: Any, **options: Any
    ) -> tuple[Outputs, Variables]:
        if not isinstance(variables, Mapping) or "params" not in variables:
            raise ValueError(
                "networks.transformed: the network must have variables['params'], got "
                f"{type(variables).__name__}; transform the members of a mixture"
            )
        params = variables["params"]
        seen = {**variables, "params": transform(params)}
        outputs, updated = network.apply(seen, inputs, **options)
        return outputs, {**updated, "params": params}

    return Network(network.init, apply)
