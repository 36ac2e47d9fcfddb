"""A Linen module that computes in int8."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jax import Array

from kdjax import trees
from kdjax.base import Variables
from kdjax.compress.quantize._activations import Activations
from kdjax.compress.quantize._quantized import Quantized, dequantized, upcast
from kdjax.compress.quantize._uniform import grid

_MIDDLE = 127  # the code of 0.0 on a symmetric grid of 8 bits


def integer(
    module: nn.Module,
    variables: Variables,
    inputs: Any,
    *,
    activations: Activations | None = None,
    **options: Any,
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
      variables: of the module; weights may be quantized by `uniform(bits=8)` already,
        and are then used as they are, so that what was saved is what runs.
      inputs: a batch of inputs; only its shapes and dtypes count.
      activations: ranges of what layers see, of 8 bits, from `calibrated`; None finds
        the range of every example while it computes.
      **options: further arguments that the module's call needs, such as `train=False`.

    Returns:
      A module for `networks.from_linen`, and variables for it.

    Raises:
      ImportError: without the packages of `pip install 'kdjax[compress]'`.
      ValueError: if it is no Linen module, if the variables are not the module's, or
        if activations or quantized weights have another grid than that of 8 bits.

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
    if not isinstance(module, nn.Module):
        raise ValueError(
            "quantize.integer: module must be a Linen module, such as models.MLP(...), "
            f"got {type(module).__name__}"
        )
    if activations is not None and activations.bits != 8:
        raise ValueError(
            f"quantize.integer: activations must have 8 bits, got {activations.bits}; "
            "quantize.with_activations computes with any number of them"
        )
    frozen = isinstance(variables, core.FrozenDict)
    given = core.unfreeze(variables) if frozen else variables
    _check_fits(_shapes(module, inputs, options), given)
    provider = qwix.PtqProvider(_rules(qwix.QuantizationRule, activations))
    module = qwix.quantize_model(module, provider)
    wanted = _shapes(module, inputs, options)["params"]
    params = jax.tree.map(_held, wanted, given["params"], is_leaf=_takes_integers)
    return module, {**given, "params": params}


def _rules(rule: Any, activations: Activations | None) -> list[Any]:
    """Return what qwix is to do: the first rule that fits a layer counts."""
    int8 = {"weight_qtype": jnp.int8, "act_qtype": jnp.int8}
    static = [
        rule(
            module_path=re.escape(path),
            act_calibration_method=f"fixed,{low},{high}",
            **int8,
        )
        for path, (low, high) in _ranges(activations).items()
    ]
    return [*static, rule(**int8)]


def _shapes(module: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
    init = functools.partial(module.init, **options)
    return jax.eval_shape(init, jax.random.key(0), inputs)


def _check_fits(wanted: Any, given: Any) -> None:
    """Raise ValueError unless the variables have the params of the module."""
    module, variables = (_sizes(tree.get("params", {})) for tree in (wanted, given))
    if module != variables:
        raise ValueError(
            "quantize.integer: variables['params'] are not those of the module:\n"
            + trees.differences(module=module, variables=variables)
        )


def _sizes(params: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_quantized)
    return {trees.path_name(path): str(list(jnp.shape(x))) for path, x in leaves}


def _is_quantized(leaf: Any) -> bool:
    return isinstance(leaf, Quantized)


def _takes_integers(like: Any) -> bool:
    return hasattr(like, "how")  # a weight of a product, as qwix describes it


def _held(like: Any, given: Any) -> Any:
    """Return a weight as qwix holds it: codes from -127 to 127, and their scales."""
    if not _takes_integers(like):
        return dequantized(given)
    scales = like.array.scale.shape
    if isinstance(given, Quantized):
        codes, scale = _own(given, scales)
    else:  # not by qwix, which takes the layers of a loop for one
        wide = upcast(jnp.asarray(given).reshape(like.shape))
        shared = tuple(axis for axis, size in enumerate(scales) if size == 1)
        largest = jnp.abs(wide).max(shared, keepdims=True, initial=0.0)
        scale, _ = grid(-largest, largest, bits=8, symmetric=True)
        codes = jnp.round(wide / scale)
    held = dataclasses.replace(
        like.array, qvalue=codes.astype(jnp.int8), scale=jnp.broadcast_to(scale, scales)
    )
    return like.replace(array=held)


def _own(given: Quantized, scales: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the codes that a weight has already, about 0, and their scales."""
    symmetric = given.levels is None and bool(jnp.all(given.zero_code == _MIDDLE))
    if not symmetric or jnp.broadcast_shapes(given.scale.shape, scales) != scales:
        raise ValueError(
            "quantize.integer: weights must be floating, or quantized by "
            "uniform(bits=8); other grids and codebooks have no products in int8"
        )
    return given.codes.astype(jnp.int16) - _MIDDLE, given.scale


def _ranges(activations: Activations | None) -> dict[str, tuple[float, float]]:
    """Return ranges that are none of a single point: qwix refuses those."""
    if activations is None:
        return {}
    found = {}
    for path, (low, high) in activations.ranges.items():
        if activations.symmetric:  # qwix has 255 steps between the ends, we have 254
            high = max(-low, high) * 255 / 254
            low = -high
        if low < high:
            found[path] = low, high
    return found
