"""Train networks of one kind: one compiled program, resumable, measured."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._model import Model
from experiments._workdir import Interrupted, Run
from kdjax import checkpoint, data, metrics, networks, train
from kdjax.base import Network, Variables
from kdjax.objectives import Objective

EVALUATION_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int
    batch_size: int
    augment: tuple[str, ...] = ()
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "cosine"

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """Return the optimizer; its learning rate falls by the schedule.

        The learning rate is part of its state, so that one compiled step serves a whole
        grid of them.
        """
        falling = _SCHEDULES[self.schedule](self.steps)

        def make(peak: Any) -> optax.GradientTransformation:
            def schedule(count: Any) -> Any:
                return peak * falling(count)

            if self.optimizer == "adam":
                return optax.adamw(schedule, weight_decay=self.weight_decay)
            momentum = optax.sgd(schedule, momentum=0.9)
            return optax.chain(optax.add_decayed_weights(self.weight_decay), momentum)

        return optax.inject_hyperparams(make)(peak=learning_rate)


def _stairs(steps: int) -> Any:
    """A tenth after 150, 180 and 210 of 240 epochs, whatever their number here."""
    at = {round(steps * epoch / 240): 0.1 for epoch in (150, 180, 210)}
    return optax.piecewise_constant_schedule(1.0, at)


_SCHEDULES: dict[str, Callable[[int], Any]] = {
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "stairs": _stairs,
}
_AUGMENTATIONS = {
    "shift": partial(data.random_shift, pixels=1),
    "crop": partial(data.random_crop, padding=4),
    "flip": data.random_flip,
}


class Fit:
    """Trains and measures networks of one kind with one compiled program.

    Args:
      run: the run they belong to.
      task: the data.
      model: the kind.
      objective: what they are trained on.
      recipe: how.
      teacher: `(network, variables)`, or None.
      parts: learned parts of the objective, trained beside the network.
      with_parts: whether the parts stay in the network that is measured.

    Attributes:
      network: what is trained.
      exported: what is measured, and used in the end.
    """

    def __init__(
        self,
        run: Run,
        task: data.Task,
        model: Model,
        objective: Objective,
        recipe: Recipe,
        teacher: tuple[Network, Variables] | None = None,
        parts: Mapping[str, Any] | None = None,
        with_parts: bool = False,
    ) -> None:
        """Compile nothing yet."""
        self.run, self.task, self.recipe = run, task, recipe
        teach, self._teacher = teacher or (None, None)
        self.network = self.exported = model.build(task.num_classes)
        if parts:
            self.network = networks.with_parts(self.network, parts, teacher=teach)
        if with_parts:
            self.exported = self.network
        self.example = jnp.zeros((1, *task.train["image"].shape[1:]))
        teach_apply = teach.apply if teach else None
        self._calls = _largest_divisor(recipe.steps, model.steps_per_call)
        step = train.make_step(
            self.network.apply, teach_apply, objective, recipe.transformation(0.0)
        )
        self._step = train.scan(step, self._calls)
        self._evaluate = _evaluation(self.exported, teach)
        self._view = data.pipeline(task)
        self._init = jax.jit(self._initial, compiler_options=_quick_to_compile())

    def _initial(self, key: jax.Array, learning_rate: Any) -> train.TrainState:
        tx = self.recipe.transformation(learning_rate)
        return train.init(self.network, tx, key, self.example)

    def abstract(self) -> Variables:
        """Return shapes and dtypes of the variables."""
        return jax.eval_shape(self.network.init, jax.random.key(0), self.example)

    def export(self, variables: Variables) -> Variables:
        """Return the variables of the network as it is used in the end."""
        if self.exported is self.network:
            return variables
        return networks.without_parts(variables)

    def measure(self, variables: Variables, split: str) -> dict[str, float]:
        """Return accuracy, calibration and so on over a split."""
        arrays = getattr(self.task, split)
        size = min(EVALUATION_BATCH, len(arrays["label"]))
        batches = data.epoch(arrays, size, self._view)
        measured = self._evaluate(self.export(variables), batches, self._teacher)
        gap = measured.pop("calibration_gap")
        measured["calibration_error"] = metrics.calibration_error(gap)
        return measured

    def __call__(
        self, name: str, directory: Path, seed: int, learning_rate: float
    ) -> Variables:
        """Train one network, or go on where its last checkpoint stands.

        Raises:
          Interrupted: if the process was asked to stop; the state is saved.
        """
        if self.run.stopping:
            raise Interrupted
        state = self._init(jax.random.key(seed), learning_rate)
        saving = checkpoint.Checkpoints(directory, best="accuracy")
        with self.run.finishing_steps(), saving as checkpoints:
            return self._train(name, checkpoints, state, seed).variables

    def _train(
        self,
        name: str,
        checkpoints: checkpoint.Checkpoints,
        state: train.TrainState,
        seed: int,
    ) -> train.TrainState:
        run, total = self.run, self.recipe.steps
        found = checkpoints.restore(state, say=run.say)
        state, done = (found.state, found.step) if found else (state, 0)
        if done < total:
            run.log.rewind(name, done)
        run.advance(done, name)
        saved = time.monotonic()
        steps = train.run(
            self._step,
            state,
            self._teacher,
            self._chunks(seed, done),
            max_skipped=run.options.max_skipped,
        )
        for state, seen in steps:
            done += self._calls
            run.advance(self._calls, name)
            measured = done == total or done % self._interval == 0
            # where nothing was measured, the checkpoint is not the best
            accuracy = self._log(name, done, state, seen) if measured else -1.0
            stop = run.stopping and done < total
            late = time.monotonic() - saved >= run.options.checkpoint_seconds
            if done == total or stop or late:
                checkpoints.save(done, state, metrics={"accuracy": accuracy})
                saved = time.monotonic()
            if stop:
                raise Interrupted
        return state

    @functools.cached_property
    def _interval(self) -> int:
        """Steps between two looks at the validation split: about a tenth of all."""
        return max(25, self.recipe.steps // 10) // self._calls * self._calls

    def _chunks(self, seed: int, start: int) -> Any:
        augmentations = [_AUGMENTATIONS[name] for name in self.recipe.augment]
        batches = data.Batches(
            self.task.train,
            self.recipe.batch_size,
            seed=seed,
            transform=data.pipeline(self.task, *augmentations),
        )
        steps = range(start, self.recipe.steps, self._calls)
        return (batches.chunk(step, self._calls) for step in steps)

    def _log(self, name: str, step: int, state: Any, seen: train.Metrics) -> float:
        means = {key: float(np.mean(values)) for key, values in seen.items()}
        for counter in ("step", "skipped_in_a_row"):
            del means[counter]
        measured = self.measure(state.variables, "validation")
        measured = {f"validation_{key}": value for key, value in measured.items()}
        self.run.log.write(name, step, {**means, **measured})
        return measured["validation_accuracy"]


def _quick_to_compile() -> dict[str, Any] | None:
    """Options for what runs once: a CPU compiles random weights for seconds else."""
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        return None
    return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def _evaluation(network: Network, teacher: Network | None) -> Any:
    """Return what measures a network beside a teacher; kinds of students share it."""
    return train.make_eval(
        network.apply,
        metrics.classification,
        teacher_apply=teacher.apply if teacher else None,
    )


def _largest_divisor(number: int, most: int) -> int:
    return max(k for k in range(1, most + 1) if number % k == 0)
