"""A network saved once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdjax import processes, trees
from kdjax.base import Variables
from kdjax.checkpoint.manager import Checkpoints


def save_variables(
    directory: str | Path, variables: Variables, about: Mapping[str, Any]
) -> None:
    """Save a network once, with a description in JSON values beside it.

    Of several processes all have to call it, with the same values.
    """
    if processes.several():  # orbax takes an array of one's own devices for a mistake
        variables = trees.to_host(variables)
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(0, variables, extra=about)


def load_variables(
    directory: str | Path,
    like: Variables,
    *,
    say: Callable[[str], None] | None = None,
) -> tuple[Variables, dict[str, Any]] | None:
    """Return what `save_variables` saved, or None if nothing readable is there."""
    if not processes.first(Path(directory).is_dir):
        return None
    with Checkpoints(directory, keep=1) as checkpoints:
        found = checkpoints.restore(like, say=say)
    return None if found is None else (found.state, found.extra)
