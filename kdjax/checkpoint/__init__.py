"""Save a whole run and take it up again, whatever happened in between.

Writing is asynchronous and atomic (orbax): a process killed in the middle leaves the
checkpoints before it untouched. Every checkpoint carries the SHA-256 of its state, so
that one that was damaged on disk is noticed and the one before it taken instead.
"""

from kdjax.checkpoint.manager import CheckpointError, Checkpoints, Restored
from kdjax.checkpoint.once import load_variables, save_variables

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Restored",
    "load_variables",
    "save_variables",
]
