"""A Linen module that computes in int8."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.base import Variables
from kdjax.compress.quantize._activations import Activations


def integer(
    module: nn.Module,
    variables: Variables,
    inputs: Any,
    *,
    activations: Activations | None = None,
) -> tuple[nn.Module, Variables]:
    """Return the module that multiplies int8 by int8, and its variables.

    Every product of `nn.Dense` and its like and every convolution runs on integers and
    sums in int32; weights are int8, with a scale for each output channel. For NNX, and
    to train with such products, use qwix itself, which this is made with::

        rules = [qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8")]
        model = qwix.quantize_model(nnx_model, qwix.PtqProvider(rules), inputs)
        network = networks.from_nnx(model)
        module = qwix.quantize_model(module, qwix.QtProvider(rules))  # to train
        network = networks.from_linen(module)

    Args:
      module: a Linen module.
      variables: of the module, in floating point.
      inputs: a batch of inputs; only its shapes and dtypes count.
      activations: ranges of what layers see, of 8 bits, from `calibrated`; None finds
        the range of every example while it computes.

    Returns:
      A module for `networks.from_linen`, and variables for it.

    Raises:
      ImportError: without the packages of `pip install 'kdjax[compress]'`.
      ValueError: if the activations have other than 8 bits.

    >>> module, inputs = nn.Dense(3), jnp.ones((2, 5))
    >>> variables = module.init(jax.random.key(0), inputs)
    >>> small_module, small = integer(module, variables, inputs)
    >>> small["params"]["kernel"].array.qvalue.dtype
    dtype('int8')
    """
    try:
        import qwix
    except ImportError as error:
        raise ImportError(
            "quantize.integer needs qwix: pip install 'kdjax[compress]'"
        ) from error
    if activations is not None and activations.bits != 8:
        raise ValueError(
            f"quantize.integer: activations must have 8 bits, got {activations.bits}; "
            "quantize.with_activations computes with any number of them"
        )
    int8 = {"weight_qtype": jnp.int8, "act_qtype": jnp.int8}
    rules = [
        qwix.QuantizationRule(
            module_path=re.escape(path),
            act_calibration_method=f"fixed,{low},{high}",
            **int8,
        )
        for path, (low, high) in _ranges(activations).items()
    ]
    rules.append(qwix.QuantizationRule(**int8))
    module = qwix.quantize_model(module, qwix.PtqProvider(rules))
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    params = qwix.quantize_params(variables["params"], shapes["params"])
    return module, {**variables, "params": params}


def _ranges(activations: Activations | None) -> dict[str, tuple[float, float]]:
    """Return ranges that are none of a single point: qwix refuses those."""
    if activations is None:
        return {}
    found = {}
    for path, (low, high) in activations.ranges.items():
        if activations.symmetric:
            low, high = -max(-low, high), max(-low, high)
        if low < high:
            found[path] = low, high
    return found
