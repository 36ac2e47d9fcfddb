"""A network as a fixed teacher."""

from collections.abc import Callable
from typing import Any

import jax

from kdjax.base import Network, Outputs, Variables


def frozen(network: Network) -> Network:
    """Return the network as a fixed teacher.

    It always runs in evaluation mode, no gradient passes it, neither to its variables
    nor to its inputs, and its variables come back as they were given.

    Args:
      network: any network.

    Returns:
      A network with the same variables, logits and features.

    >>> from kdjax import networks
    >>> teacher = frozen(networks.from_function(lambda params, x: params * x))
    >>> jax.grad(lambda w: teacher.apply({"params": w}, 3.0)[0].logits)(2.0)
    Array(0., dtype=float32, weak_type=True)
    """

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        # Stopped on the way in, so that no tangent is ever computed, and on the way
        # out, for what the network may close over.
        held, seen = jax.lax.stop_gradient((variables, inputs))
        outputs, _ = network.apply(held, seen, train=False, rngs=rngs)
        return jax.lax.stop_gradient(outputs), variables

    return Network(network.init, apply)


def viewed(network: Network, view: Callable[[Any], Any]) -> Network:
    """Return the network with eyes of its own: `view(inputs)` is what it sees.

    For a teacher that was trained at another resolution or with another normalisation
    than the student beside it.

    Args:
      network: any network.
      view: pure `view(inputs) -> inputs`.

    Returns:
      A network with the same variables.

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, x: x @ params)
    >>> doubled = viewed(linear, lambda x: 2 * x)
    >>> doubled.apply({"params": jax.numpy.eye(2)}, jax.numpy.ones((1, 2)))[0].logits
    Array([[2., 2.]], dtype=float32)
    """

    def init(key: Any, inputs: Any) -> Variables:
        return network.init(key, view(inputs))

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        return network.apply(variables, view(inputs), train=train, rngs=rngs)

    return Network(init, apply)
