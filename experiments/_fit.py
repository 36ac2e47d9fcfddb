"""Train networks of one kind: one compiled program, resumable, measured."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments import _plan, _problem
from experiments._pace import Pace
from experiments._problem import Arrays, Figures, Judge, Problem, Told
from experiments._recipe import Learner, Recipe
from experiments._speed import Speed
from experiments._workdir import Interrupted, Run
from kdjax import checkpoint, data, networks, train, trees
from kdjax.base import Network, Variables
from kdjax.objectives import Objective
from kdjax.teachers import cache

TaughtBy = tuple[Network, Variables | Callable[[int], Variables]] | Told
Examples = Callable[[int], Arrays]

_UNSEEN = -1e300


class Fit:
    """Trains and measures networks of one kind with one compiled program.

    Args:
      run: the run they belong to.
      task: a task of images, or any problem.
      learner: the kind.
      objective: what they are trained on.
      recipe: how.
      teacher: a network and its variables, or a function of the seed to them; or what
        it said; or None.
      judge: whom agreement is measured with, as the teacher; or None.
      examples: `examples(seed) -> arrays` to train on; None trains on the task's.
      keep_steps: whose checkpoints are kept.
      teacher_dtype: what a frozen teacher's parameters are kept in.

    Attributes:
      exported: what is measured, and used in the end.
      steps: some training steps in one compiled call.
      calls: how many.
    """

    def __init__(
        self,
        run: Run,
        task: data.Task | Problem,
        learner: Learner,
        objective: Objective,
        recipe: Recipe,
        *,
        teacher: TaughtBy | None = None,
        judge: Judge | None = None,
        examples: Examples | None = None,
        keep_steps: Sequence[int] = (),
        teacher_dtype: str = "float32",
    ) -> None:
        """Compile nothing yet."""
        self.run, self.task, self.recipe, self._learner = run, task, recipe, learner
        self.problem = _problem.of(task)
        self.exported = learner.exported
        self.example = self.problem.example
        self._keep, self._examples = tuple(keep_steps), examples
        self._teacher_dtype = teacher_dtype
        self._told = teacher if isinstance(teacher, Told) else None
        if self._told:
            teacher, objective = None, cache.taught(objective)
        self._teach, self._taught_by = teacher or (None, None)
        self.calls = _largest_divisor(
            math.gcd(recipe.steps, *self._keep), learner.steps_per_call
        )
        apply = self._teach.apply if self._teach else None
        step = self._make_step(apply, objective)
        self.steps = train.scan(step, self.calls)
        self._judge = judge

    def _make_step(self, teach: Any, objective: Any) -> train.Step:
        learner, tx = self._learner, self._transformation(0.0)
        network = learner.network
        if self.run.options.remat:
            network = networks.remat(network)
        step = train.make_step(
            network.apply,
            teach,
            objective,
            tx,
            past=learner.past,
            accumulate=self.recipe.accumulate,
            shardings=self.run.shardings,
            inputs=self.problem.inputs,
        )
        return train.on_policy(step, learner.sample) if learner.sample else step

    def _transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        tx = self._learner.around(self.recipe.transformation(learning_rate))
        trains = self._learner.trains
        if trains is None:
            return tx

        def labels(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: trains(trees.path_name(path)), params
            )

        return optax.multi_transform({True: tx, False: optax.set_to_zero()}, labels)

    def _initial(self, key: jax.Array, learning_rate: Any) -> train.TrainState:
        tx, past = self._transformation(learning_rate), self._learner.past
        return train.init(self._learner.network, tx, key, self.example, past=past)

    @functools.cached_property
    def _init(self) -> Any:
        where = self.run.shardings
        if where is not None:
            where = where.of(self.abstract_state())
        options = {"compiler_options": _quick_to_compile(), "out_shardings": where}
        return jax.jit(self._initial, **options)

    def abstract_state(self) -> train.TrainState:
        """Return shapes and dtypes of what training changes."""
        return jax.eval_shape(self._initial, jax.random.key(0), 0.0)

    def _start(self, seed: int, learning_rate: float) -> train.TrainState:
        start, key = self._learner.start, jax.random.key(seed)
        if start is None:
            return self._init(key, learning_rate)
        _, state_key = jax.random.split(key)  # the one that `train.init` takes
        tx, past = self._transformation(learning_rate), self._learner.past
        state = train.from_variables(start(seed), tx, state_key, past=past)
        return self.run.shardings.place(state) if self.run.shardings else state

    def abstract(self) -> Variables:
        """Return shapes and dtypes of the variables."""
        network = self._learner.network
        return jax.eval_shape(network.init, jax.random.key(0), self.example)

    def export(self, variables: Variables) -> Variables:
        """Return the variables of the network as it is used in the end."""
        return self._learner.export(variables)

    def measure(self, variables: Variables, split: str) -> Figures:
        """Return what is measured over a split, such as accuracy and calibration."""
        exported = self.export(variables)
        return self.problem.figures(
            self.exported, exported, split, self._judge, self.run.shardings
        )

    def __call__(
        self, name: str, directory: Path, seed: int, learning_rate: float
    ) -> Variables:
        """Train one network, or go on where its last checkpoint stands.

        Raises:
          Interrupted: if the process was asked to stop; the state is saved.
        """
        if self.run.asked_to_stop():
            raise Interrupted
        state, teacher = self._start(seed, learning_rate), self.frozen(seed)
        saving = checkpoint.Checkpoints(directory, best="score", keep_steps=self._keep)
        with self.run.finishing_steps(), saving as checkpoints:
            trained = self._train(name, checkpoints, state, teacher, seed).variables
        return trees.to_host(trained) if self.run.shardings else trained

    def frozen(self, seed: int) -> Any:
        """Return the teacher's variables as a step takes them."""
        taught_by, shardings = self._taught_by, self.run.shardings
        teacher = taught_by(seed) if callable(taught_by) else taught_by
        teacher = self._kept(teacher)
        return shardings.place_teacher(teacher) if shardings else teacher

    def _kept(self, teacher: Any) -> Any:
        """Return a teacher's variables in the dtype that they are kept in."""
        if teacher is None or self._teacher_dtype == "float32":
            return teacher
        params = trees.cast(teacher["params"], self._teacher_dtype)
        return {**teacher, "params": params}

    def _train(
        self,
        name: str,
        checkpoints: checkpoint.Checkpoints,
        state: train.TrainState,
        teacher: Any,
        seed: int,
    ) -> train.TrainState:
        run, total = self.run, self.recipe.steps
        state, done = self._resumed(name, checkpoints, state)
        pace = Pace(run.options.checkpoint_seconds, done)
        steps = train.run(
            self.steps,
            state,
            teacher,
            self.chunks(seed, done),
            max_skipped=run.options.max_skipped,
        )
        speed = self._speed(name)
        for state, seen in steps:
            done += self.calls
            run.advance(self.calls, name)
            speed.see(done, seen, self.calls)
            measured = done == total or done % self._interval == 0
            # where nothing was measured, the checkpoint is not the best
            score = _UNSEEN
            if measured:
                with speed.pause():
                    score = self._log(name, done, state, seen)
            stop = run.asked_to_stop() and done < total
            if pace.is_over(done) or done == total or done in self._keep or stop:
                with speed.pause():
                    checkpoints.save(done, state, metrics={"score": score})
                pace.reset(done)
            if stop:
                raise Interrupted
        return state

    def _resumed(
        self, name: str, checkpoints: checkpoint.Checkpoints, state: train.TrainState
    ) -> tuple[train.TrainState, int]:
        """Return the state of the last checkpoint and its step, or the one given."""
        found = checkpoints.restore(state, say=self.run.say)
        state, done = (found.state, found.step) if found else (state, 0)
        if done < self.recipe.steps:
            self.run.log.rewind(name, done)
        self.run.advance(done, name)
        return state, done

    def _speed(self, name: str) -> Speed:
        return Speed(
            self.run,
            name,
            every=self.run.options.log_every or self._interval,
            examples=self.recipe.batch_size,
            tokens=self.problem.tokens,
            flops=lambda: _plan.flops(self, next(self.chunks(0, 0))),
        )

    def abstract_teacher(self) -> Any:
        """Return shapes and dtypes of the teacher's variables beside the student."""
        if callable(self._taught_by):  # known only when its student is trained
            key = jax.random.key(0)
            found = jax.eval_shape(self._teach.init, key, self.example)
        else:
            found = self._taught_by
        return jax.eval_shape(self._kept, found)

    @functools.cached_property
    def _interval(self) -> int:
        """Steps between two looks at the validation split: about a tenth of all."""
        calls = max(25, self.recipe.steps // 10) // self.calls
        return max(1, calls) * self.calls

    def chunks(self, seed: int, start: int) -> Any:
        """Return the batches from a step on, as many at a time as one call takes."""
        transform = self.problem.in_training(self.recipe.augmentations)
        stored: dict[str, Any] = {}
        if self._told:
            said, transform = self._told.splits["train"], self._told.view
            stored = {"views": said.views, "beside": said.arrays}
        batches = data.Batches(
            self._examples(seed) if self._examples else self.problem.train,
            self.recipe.batch_size,
            seed=seed,
            transform=transform,
            sharding=self.run.shardings.batch if self.run.shardings else None,
            **stored,
        )
        steps = range(start, self.recipe.steps, self.calls)
        return (batches.chunk(step, self.calls) for step in steps)

    def _log(self, name: str, step: int, state: Any, seen: train.Metrics) -> float:
        means = {key: float(np.mean(values)) for key, values in seen.items()}
        for counter in ("step", "skipped_in_a_row"):
            del means[counter]
        measured = self.measure(state.variables, "validation")
        named = {f"validation_{key}": value for key, value in measured.items()}
        self.run.log.write(name, step, {**means, **named})
        return self.problem.score(measured)


def _quick_to_compile() -> dict[str, Any] | None:
    """Options for what runs once: a CPU compiles random weights for seconds else."""
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        return None
    return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def _largest_divisor(number: int, most: int) -> int:
    return max(k for k in range(1, most + 1) if number % k == 0)
