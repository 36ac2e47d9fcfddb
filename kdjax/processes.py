"""Several processes that run one program: what one decides, all do.

Every process of a job runs the same code, so calls here have to come in the same order
in all of them. With a single process they cost nothing.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

# The key-value store and the barriers of the service that `jax.distributed` starts: jax
# itself and orbax use it this way, and there is no public name for it. Collectives
# would do, too, but must not wait as long as a process may work alone.
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

_DAY = 24 * 60 * 60 * 1000
_numbers = itertools.count()
_alone = False


class ElsewhereError(RuntimeError):
    """What process 0 did for all has failed there; it has said why."""


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return global_state.process_id == 0


def several() -> bool:
    """Whether there is more than one process."""
    return global_state.client is not None and global_state.num_processes > 1


def is_alone() -> bool:
    """Whether this process does something in `first` that the others wait for."""
    return _alone


def each(value: Any) -> list[Any]:
    """Return the JSON values that the processes have, in all of them, by number.

    >>> each(None)
    [None]
    """
    if not several():
        return [value]
    client: Any = global_state.client
    key = f"kdjax/{next(_numbers)}"
    client.key_value_set(f"{key}/{global_state.process_id}", json.dumps(value))
    found = (
        client.blocking_key_value_get(f"{key}/{number}", _DAY)
        for number in range(global_state.num_processes)
    )
    return [json.loads(text) for text in found]


def agreed(value: Any) -> Any:
    """Return the JSON value that process 0 has, in all processes.

    >>> agreed({"steps": 3})
    {'steps': 3}
    """
    if not several():
        return value
    client: Any = global_state.client
    key = f"kdjax/{next(_numbers)}"
    if is_main():
        client.key_value_set(key, json.dumps(value, default=float))
        return value
    return json.loads(client.blocking_key_value_get(key, _DAY))


def first(make: Callable[[], Any]) -> Any:
    """Return what process 0 makes, in all processes; the others wait for it.

    Args:
      make: makes a JSON value, such as what a file holds; runs in process 0 alone, so
        nothing in it may wait for others, as checkpoints do.

    Raises:
      ElsewhereError: in the others, if it raised in process 0.

    >>> first(lambda: 3)
    3
    """
    if not several():
        return make()
    if not is_main():
        told = agreed(None)
        if "error" in told:
            raise ElsewhereError(told["error"])
        return told["value"]
    global _alone
    _alone = True
    try:
        value = make()
    except BaseException as error:
        agreed({"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        _alone = False
    return agreed({"value": value})["value"]


def shared(tree: Any) -> Any:
    """Return the arrays that process 0 has, in all processes, as NumPy arrays.

    For what each has computed by itself: on GPUs not all of it has the same bits.
    """
    if not several():
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def together() -> None:
    """Wait until all processes are here."""
    if several():
        client: Any = global_state.client
        client.wait_at_barrier(f"kdjax/{next(_numbers)}", _DAY)
