"""What Linen and NNX share: the mode, and which intermediates to expose."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from kdjax.base import Network, Outputs, Variables

Keep: TypeAlias = Callable[[str], bool] | None
Forward: TypeAlias = Callable[..., tuple[Any, dict[str, Any], Variables]]
"""`forward(variables, inputs, train, rngs, keep) -> (returned, held, variables)`: what
the module returned, and the intermediates it held under the names that `keep` accepts;
none if `keep` is None."""

# What modules call their mode, and the value that means training.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def mode(function: Callable[..., Any], train: bool) -> dict[str, Any]:
    """Return the arguments that tell a module's `__call__` its mode, if it has any."""
    known = inspect.signature(function).parameters
    return {name: train == value for name, value in _MODES.items() if name in known}


def as_outputs(returned: Any) -> Outputs:
    """Return what a module returned as `Outputs`; anything else is the logits."""
    return returned if isinstance(returned, Outputs) else Outputs(returned)


def network(
    function: str,
    init: Callable[[Any, Any], Variables],
    forward: Forward,
    capture: Sequence[str],
) -> Network:
    """Return the network that exposes the captured part of what `forward` holds."""
    if isinstance(capture, str):
        raise ValueError(f"{function}: capture must be a sequence, got {capture!r}")
    paths = {_without_call(name) for name in capture} - {""}  # "" would be the root
    keep = paths.__contains__ if capture else None

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        returned, held, updated = forward(variables, inputs, train, rngs, keep)
        outputs = as_outputs(returned)
        if not capture:
            return outputs, updated
        held = {**held, **outputs.features}
        features: dict[str, Any] = {}
        for name in capture:
            chosen = _matching(name, held)
            if not chosen:
                names = _all_names(forward, variables, inputs, train, rngs)
                raise ValueError(f"{function}: {unknown(name, names)}")
            features |= {one: held[one] for one in chosen}
        return dataclasses.replace(outputs, features=features), updated

    def checked_init(key: Any, inputs: Any) -> Variables:
        variables = init(key, inputs)
        if capture:
            jax.eval_shape(apply, variables, inputs)
        return variables

    return Network(checked_init, apply)


def named(
    intermediates: Mapping[Any, Any], path: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of everything in a nested dict of sown intermediates."""
    for key, value in intermediates.items():
        name = path if key == "__call__" else f"{path}/{key}".lstrip("/")
        if isinstance(value, Mapping):
            yield from named(value, name)
        elif isinstance(value, tuple) and len(value) > 1:
            yield from ((f"{name}[{call}]", one) for call, one in enumerate(value))
        else:
            yield name, value[0] if isinstance(value, tuple) else value


def _without_call(name: str) -> str:
    return re.sub(r"\[\d+\]$", "", name)


def _matching(name: str, held: Mapping[str, Any]) -> list[str]:
    if name in held:
        return [name]
    return [one for one in held if _without_call(one) == name]


def _all_names(
    forward: Forward, variables: Variables, inputs: Any, train: bool, rngs: Any
) -> list[str]:
    names: set[str] = set()

    def look(variables: Variables, inputs: Any, rngs: Any) -> None:
        # `bool` accepts every name but that of the root, whose path is empty.
        returned, held, _ = forward(variables, inputs, train, rngs, bool)
        names.update(held, as_outputs(returned).features)

    jax.eval_shape(look, variables, inputs, rngs)
    return sorted(names)


def unknown(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    known = ", ".join(names) or "none"
    return f"no intermediate is called {name!r}.{hint} There are: {known}"
