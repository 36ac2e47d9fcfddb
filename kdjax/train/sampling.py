"""Batches that the student makes itself, inside of the step."""

import zlib
from collections.abc import Callable
from typing import Any

import jax

from kdjax.base import Batch, Variables, rows
from kdjax.train.state import TrainState
from kdjax.train.step import Done, Step

Sample = Callable[[Variables, Batch, jax.Array], Batch]

# Added to the key of a step: what is sampled is not what dropout draws.
_STREAM = zlib.crc32(b"kdjax.on_policy")


def on_policy(step: Step, sample: Sample) -> Step:
    """Return a step that trains on what the student itself makes of a batch.

    Before each step `sample` makes the batch anew with the student as it is: answers of
    a language model to the batch's prompts, which the teacher then scores, or states
    that its policy runs into. It is part of the compiled step, outside the gradient.

    Args:
      step: from `make_step`.
      sample: `sample(variables, batch, key) -> batch`, of fixed shapes. To sample only
        now and then, draw from the key and choose with `jax.lax.cond`.

    Returns:
      A `Step`, for `run` and `scan` like any other.

    Source: Agarwal et al., "On-Policy Distillation of Language Models" (GKD),
    https://arxiv.org/abs/2306.13649 (2023).

    Example::

        def sample(variables, batch, key):
            answers = generate(variables, batch["prompt"], key)
            return {**batch, "tokens": answers}

        step = train.on_policy(train.make_step(...), sample)
    """

    def made(state: TrainState, batch: Batch) -> Batch:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _STREAM)
        return jax.lax.stop_gradient(sample(state.variables, rows(batch), key))

    def pure(state: TrainState, teacher: Any, batch: Batch) -> Done:
        return step.pure(state, teacher, made(state, batch))

    def blame(state: TrainState, teacher: Any, batch: Batch) -> dict[str, str]:
        return step.blame(state, teacher, made(state, batch))

    return Step(pure, blame)
