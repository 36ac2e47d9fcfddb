"""The loop is a generator: the body of the caller's `for` is the callback system."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from kdjax import checks
from kdjax.train.state import TrainState
from kdjax.train.step import Metrics, Step

# Counters are read this many calls late, when they are long computed, so that looking
# at them never makes the device wait.
_LAG = 4


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


def run(
    step: Step,
    state: TrainState,
    teacher_variables: Any,
    batches: Iterable[Any],
    *,
    max_skipped: int = 10,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yield `(state, metrics)` after every step.

    The device is never waited for: metrics are arrays still being computed. Take each
    state as it comes; the next step donates it.

    Args:
      step: from `make_step`, or `scan` of one: then a batch is a stack of batches.
      state: where to start; donated.
      teacher_variables: the frozen teacher's, or None.
      batches: as many as steps are wanted.
      max_skipped: stop after this many steps in a row that were skipped because
        something in them was not finite; at least 1.

    Raises:
      NonFiniteError: after `max_skipped` such steps (or a few later); the message names
        the step and the terms. The last state yielded holds the parameters of the last
        step that was good.
      ValueError: if `max_skipped` is less than 1.
    """
    checks.positive("train.run", max_skipped=max_skipped)
    pending: deque[tuple[Any, Metrics]] = deque()
    for batch in batches:
        state, metrics = step(state, teacher_variables, batch)
        yield state, metrics
        pending.append((batch, metrics))
        if len(pending) > _LAG:
            _check(step, state, teacher_variables, *pending.popleft(), max_skipped)
    while pending:
        _check(step, state, teacher_variables, *pending.popleft(), max_skipped)


def _check(
    step: Step,
    state: TrainState,
    teacher: Any,
    batch: Any,
    metrics: Metrics,
    limit: int,
) -> None:
    in_a_row = np.atleast_1d(metrics["skipped_in_a_row"])
    if in_a_row.max() < limit:
        return
    index = int((in_a_row >= limit).argmax())
    number = int(np.atleast_1d(metrics["step"])[index])
    if np.ndim(metrics["step"]):
        batch = jax.tree.map(lambda x: x[index], batch)
    reasons = step.blame(
        dataclasses.replace(state, step=state.step * 0 + number - 1), teacher, batch
    )
    told = "; ".join(f"term {name!r}: {why}" for name, why in reasons.items())
    raise NonFiniteError(
        f"step {number}: the loss or its gradient was not finite for "
        f"{in_a_row[index]} steps in a row. "
        + (told or "Every term alone is finite; their sum or the update overflows")
        + ". Lower the learning rate or clip gradients (optax.clip_by_global_norm)."
    )


def scan(step: Step, steps: int) -> Step:
    """Return a step that does `steps` of them in one compiled call.

    For small models, whose steps cost less than their dispatch. Its batch has leaves
    `[steps, batch, ...]` and its metrics are `[steps]` arrays.

    Raises:
      ValueError: when first traced, if a leading axis of the batch is not `steps`.
    """

    def pure(state: TrainState, teacher: Any, batches: Any) -> Any:
        found = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
        if found != {(steps,)}:
            raise ValueError(
                f"train.scan: every leaf of the batch needs a leading axis of {steps} "
                f"steps, got {sorted(found)}"
            )
        return jax.lax.scan(
            lambda s, batch: step.pure(s, teacher, batch),
            state,
            batches,
            # By twos, one step is no loop: a CPU's convolutions are slow inside of one.
            unroll=2 if steps == 1 else 1,
        )

    return Step(pure, step.blame)
