"""Where a student that teaches itself takes its teacher from."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments import _methods, _responses
from experiments._config import StudentConfig
from experiments._students import Kind, Students, hard, soft
from kdjax import losses, networks, teachers
from kdjax.base import Batch, Outputs
from kdjax.models import projectors
from kdjax.objectives import Schedule

SNAPSHOTS = 3


class Source(NamedTuple):
    """A way to be one's own teacher.

    Attributes:
      matches: what the student matches, in a few words.
      train: `train(students, config, alone)` trains them; `alone` are those that
        learned from labels, with a checkpoint at half time.
    """

    matches: str
    train: Callable[[Students, StudentConfig, Kind], Kind]


def later(start: int, weight: float) -> Schedule:
    """Return a weight that is 0 up to a step and then grows to its whole in as many."""
    return optax.schedules.linear_schedule(0.0, weight, start, transition_begin=start)


def checkpoint(students: Students, config: Any, alone: Kind) -> Kind:
    """Half of the training is the teacher of another, from the start."""
    half = config.steps // 2
    students.notes.append(
        f"checkpoint: its teacher has {half} steps of its own, beyond the budget."
    )

    def variables(seed: int) -> Any:
        return alone.variables(seed, half)

    taught = soft(config.temperature, config.alpha)
    return students.train("checkpoint", taught, teacher=(students.student, variables))


def snapshots(students: Students, config: Any, alone: Kind) -> Kind:
    """The mean of the last few states, taken ten times in all."""
    every = max(config.steps // 10, 1)
    learner = dataclasses.replace(
        students.learner, past=teachers.snapshots(SNAPSHOTS, every=every)
    )
    together = teachers.ensemble(students.student, SNAPSHOTS)
    taught = soft(config.temperature, later(every, config.alpha))
    return students.train(
        "snapshots", taught, learner=learner, teacher=(together, None)
    )


def ema(students: Students, config: Any, alone: Kind) -> Kind:
    """The mean teacher."""
    learner = dataclasses.replace(students.learner, past=teachers.ema(config.decay))
    weight = later(max(config.steps // 10, 1), config.alpha)
    taught = soft(config.temperature, weight)
    return students.train(
        "ema", taught, learner=learner, teacher=(students.student, None)
    )


def progressive(students: Students, config: Any, alone: Kind) -> Kind:
    """PS-KD: targets between the labels and what it said an epoch ago.

    The cross-entropy is linear in its targets, so the mixed targets are two terms.
    """
    epoch = -(-len(students.task.train["label"]) // config.batch_size)
    learner = dataclasses.replace(
        students.learner, past=teachers.snapshots(1, every=epoch)
    )

    def amount(step: Any) -> Any:
        return jnp.where(step < epoch, 0.0, 0.8 * step / config.steps)

    taught = soft(1.0, amount)
    before = teachers.ensemble(students.student, 1)
    return students.train(
        "progressive", taught, learner=learner, teacher=(before, None)
    )


def virtual(students: Students, config: Any, alone: Kind) -> Kind:
    """Tf-KD: a teacher made of the labels."""
    method = _responses.METHODS["virtual"]
    taught = method.build(students, ())
    return students.train("virtual", _methods.beside_labels(method, taught))


def deep(students: Students, config: Any, alone: Kind) -> Kind:
    """BYOT: the last stage teaches earlier exits, which are dropped in the end."""
    *early, last = stages(config)
    shapes = networks.shapes(students.student, students.example)
    width = shapes.features[last].shape[-1]
    parts: dict[str, Any] = {}
    for name in early:
        features = f"{name}_features"
        parts[features] = networks.Part(projectors.Bottleneck(width), name)
        exit_head = nn.Dense(students.task.num_classes)
        parts[f"{name}_exit"] = networks.Part(exit_head, features)

    def distil(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        terms = hard(student, teacher, batch)
        taught_by = jax.lax.stop_gradient((student.logits, student.features[last]))
        for name in early:
            answer = student.features[f"{name}_exit"]
            kl = losses.soft_target_kl(answer, taught_by[0], temperature=3.0)
            hint = losses.hint(student.features[f"{name}_features"], taught_by[1])
            labels = hard(Outputs(answer), None, batch)["hard"]
            terms[f"{name}_soft"] = 0.3 * kl.mean()
            terms[f"{name}_hint"] = 0.03 * hint.mean()
            terms[f"{name}_hard"] = 0.7 * labels
        return terms

    return students.train("deep", distil, learner=students.learner.with_parts(parts))


def stages(config: StudentConfig) -> list[str]:
    """Return the features that can have exits, and last the one the head reads."""
    if config.student.model == "resnet":
        return ["stage1", "stage2", "pooled"]
    depth = config.student.depth or 0
    if depth < 2:
        raise ValueError(
            f"config: deep supervision needs two hidden layers or more, got {depth}: "
            "give --student.depth 2, or leave deep out of --source"
        )
    return [f"hidden{layer}" for layer in range(1, depth + 1)]


SOURCES = {
    "checkpoint": Source("its own half-trained state (one checkpoint)", checkpoint),
    "snapshots": Source("the mean of its last three snapshots", snapshots),
    "ema": Source("the moving average of its weights (mean teacher)", ema),
    "progressive": Source("what it said an epoch ago (PS-KD)", progressive),
    "virtual": Source("a teacher made of the labels (Tf-KD)", virtual),
    "deep": Source("its own last stage, at earlier exits (BYOT)", deep),
}
