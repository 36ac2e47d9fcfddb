"""The networks and the transfer sets of the paper's section 3."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _problem
from experiments._config import distinct
from experiments._field import Field
from experiments._kinds import Kind
from experiments._problem import Arrays, Figures, Problem
from experiments._students import hard, soft
from kdjax import checks, data, report, trees
from kdjax.base import Batch, Network, Outputs, Variables
from kdjax.models import MLP
from kdjax.objectives import Objective
from kdjax.teachers import cache

ABSENT = 3
"""The digit that the transfer set lacks."""
JITTER = ("jitter",)
"""Shifts by up to 2 pixels."""


def _measure(outputs: Outputs, batch: Batch) -> dict[str, Any]:
    """Measure a classifier, and its errors on the digit that was absent."""
    found = _problem.classification(outputs, batch)
    absent = (batch["label"] == ABSENT) * (1 - found["accuracy"])
    return {**found, "absent": absent}


def _counted(means: dict[str, Any], examples: int) -> Figures:
    """Return numbers of errors, as the paper counts them, beside the other figures."""
    absent = means.pop("absent")
    found = _problem.calibrated(means, examples)
    return {
        **found,
        "errors": float(round(examples * (1 - found["accuracy"]))),
        "absent_errors": float(round(examples * absent)),
    }


def problem(task: data.Task) -> Problem:
    """Return a task of images as one of counted errors."""
    counted = {"measure": _measure, "finished": _counted, "figure": "errors"}
    return dataclasses.replace(_problem.of(task), **counted)


def check(config: Any) -> None:
    """Raise ValueError for a number that cannot be."""
    for name in ("teacher_width", "student_width", "max_norm", "temperature"):
        checks.positive("config", **{name: getattr(config, name)})
    checks.fraction("config", alpha=config.alpha, dropout=config.dropout)
    checks.integer("config", 0, jittered_steps=config.jittered_steps)
    distinct(widths=config.widths, temperatures=config.temperatures)
    checks.positive("config", widths=min(config.widths))
    checks.positive("config", temperatures=min(config.temperatures))


def max_norm(limit: float) -> Callable[[Any], optax.GradientTransformation]:
    """Return what lets no unit's incoming weights be longer than a limit.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", 2014; the weights of the head are left alone.
    """

    def shortened(path: Any, update: Any, kernel: Any) -> Any:
        name = trees.path_name(path)
        if not name.endswith("kernel") or name.startswith("head"):
            return update
        moved = kernel + update
        length = jnp.linalg.norm(moved, axis=0, keepdims=True)
        return moved * jnp.minimum(1, limit / jnp.maximum(length, limit)) - kernel

    def update(updates: Any, state: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(shortened, updates, params), state

    project = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
    return lambda tx: optax.chain(tx, project)


class Digits:
    """The large net, and small ones taught by what it says of the plain images.

    Args:
      field: the problem, the run, the budgets.
      config: what the large net is like, and how long the others are jittered.
    """

    def __init__(self, field: Field, config: Any) -> None:
        """Train the large net, and ask it once about every training image."""
        self.field, self.config, limit = field, config, config.max_norm
        field.teach(
            MLP(10, config.teacher_width, dropout=config.dropout),
            hard,
            augment=JITTER,
            about={"max_norm": limit},
            around=max_norm(limit),
        )
        assert field.teacher is not None
        arrays = field.problem.train
        said = ask(*field.teacher, arrays, field.problem.transform)
        self._told = {**arrays, "teacher/log_probs": said}

    def alone(self, name: str, width: int) -> Kind:
        """Train a net of two layers on the labels."""
        field = self.field
        return field.train(name, hard, field.learner(MLP(10, width)))

    def distilled(
        self, name: str, width: int, temperature: float, alpha: float, *, without: Any
    ) -> Kind:
        """Train one on soft targets, too; `without` a digit, or with all (None)."""
        arrays = lacking(self._told, without)
        return self.field.train(
            name,
            cache.taught(soft(temperature, alpha)),
            self.field.learner(MLP(10, width)),
            examples=lambda seed: arrays,
        )

    def jittered(
        self, name: str, width: int, objective: Objective, *, without: Any = None
    ) -> Kind:
        """Train one on images that are jittered as those of the large net are.

        It is asked about every one of them; an objective of labels does not listen.
        """
        field, recipe = self.field, self.config.recipe(self.config.jittered_steps)
        arrays = lacking(field.problem.train, without)
        return field.train(
            name,
            objective,
            field.learner(MLP(10, width)),
            teacher=field.teacher,
            examples=lambda seed: arrays,
            recipe=dataclasses.replace(recipe, augment=JITTER),
        )

    def raised(self, name: str, kind: Kind) -> None:
        """Add a row of nets whose bias of the absent digit is raised.

        By how much is chosen for each seed: the fewest errors on the validation split,
        the middle of those that tie.
        """
        network, problem = kind.fit.exported, self.field.problem
        chosen = {}

        def variables(seed: int) -> Variables:
            found = kind.variables(seed)
            errors = [
                problem.figures(network, moved(found, by), "validation")["errors"]
                for by in OFFSETS
            ]
            best = OFFSETS[np.array(errors) == min(errors)]
            chosen[seed] = float(best[len(best) // 2])
            return moved(found, chosen[seed])

        self.field.given(name, network, variables)
        offsets = ", ".join(f"{by:.1f}" for by in chosen.values())
        self.field.notes.append(
            f"{name}: that of the digit {ABSENT} by {offsets} (one for each seed), "
            "chosen on the validation split. The paper: 3.5."
        )


def lacking(arrays: Arrays, digit: int | None) -> Arrays:
    """Return the arrays without the examples of a digit, or all of them (None)."""
    if digit is None:
        return arrays
    kept = arrays["label"] != digit
    return {name: array[kept] for name, array in arrays.items()}


OFFSETS = np.arange(0, 12.05, 0.1)


def moved(variables: Variables, by: float) -> Variables:
    """Return the variables with the bias of the absent digit raised."""
    params = variables["params"]
    bias = jnp.asarray(params["head"]["bias"]).at[ABSENT].add(by)
    head = {**params["head"], "bias": bias}
    return {**variables, "params": {**params, "head": head}}


def ask(network: Network, variables: Variables, arrays: Any, view: Any) -> np.ndarray:
    """Return the log-probabilities `[n, classes]` that a network gives images."""

    @jax.jit
    def say(variables: Variables, images: Any) -> Any:
        return jax.nn.log_softmax(network.apply(variables, images)[0].logits)

    images = {"image": arrays["image"]}
    return _problem.asked(images, lambda batch: say(variables, batch["image"]), view)


def _jittered(nets: Digits, width: int, soft_targets: Objective) -> tuple[str, str]:
    """Train the same nets on jittered images; return which two are compared."""
    alone, distilled = "alone, jittered", "distilled, jittered"
    nets.jittered(alone, width, hard)
    nets.jittered(distilled, width, soft_targets)
    name = "distilled, no 3s, jittered"
    kind = nets.jittered(name, width, soft_targets, without=ABSENT)
    nets.raised("no 3s, jittered, bias raised", kind)
    return distilled, alone


def table(nets: Digits, config: Any) -> report.Result:
    """Train all small nets; return the table."""
    field, width = nets.field, config.student_width
    heat, alpha = config.temperature, config.alpha
    alone = nets.alone("student alone", width).row.name
    pairs = []
    for name, without in (("distilled", None), ("distilled, no 3s", ABSENT)):
        kind = nets.distilled(name, width, heat, alpha, without=without)
        pairs.append((name, alone))
    nets.raised("no 3s, bias raised", kind)
    if config.jittered_steps:
        pairs.append(_jittered(nets, width, soft(heat, alpha)))
    for small in config.widths:
        nets.alone(f"{small} units alone", small)
        for warm in config.temperatures:
            name = f"{small} units, T = {warm:g}"
            nets.distilled(name, small, warm, alpha, without=None)
            pairs.append((name, f"{small} units alone"))
    threes = int((field.problem.test["label"] == ABSENT).sum())
    jittered = config.jittered_steps and (
        "; jittered ones see them shifted by up to 2 pixels, as the large net did, for "
        f"{config.jittered_steps:,} steps"
    )
    return field.table(
        f"Errors on {field.problem.name}, T = {heat:g}",
        alone,
        ("errors", "absent_errors", "parameters"),
        f"{len(field.problem.test['label']):,} test images, {threes:,} of them 3s. "
        f"Students see the images as they are{jittered or ''}.",
        pairs=pairs,
    )
