"""Teachers of other tasks: of some classes each, or of other classes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments import _teacher
from experiments._config import Config
from experiments._fit import Examples, Fit
from experiments._recipe import Learner
from experiments._rows import place_of
from experiments._run import Run
from experiments._students import Students, hard
from kdjax import data, losses, networks, objectives, report, teachers
from kdjax.base import Batch, Network, Outputs, Variables
from kdjax.objectives import Objective

Classes = tuple[int, ...]
Split = dict[str, np.ndarray]


def groups(task: data.Task, number: int) -> list[Classes]:
    """Cut the classes into groups, in their order."""
    return [
        tuple(part.tolist()) for part in np.array_split(range(task.num_classes), number)
    ]


def restricted(task: data.Task, classes: Sequence[int]) -> data.Task:
    """Return the task of some classes alone, counted anew."""
    place = np.full(task.num_classes, -1, np.int32)
    place[list(classes)] = np.arange(len(classes))

    def of(split: Split) -> Split:
        label = place[split["label"]]
        return {"image": split["image"][label >= 0], "label": label[label >= 0]}

    splits = {name: of(getattr(task, name)) for name in ("train", "validation", "test")}
    name = f"{task.name}-{classes[0]}-{classes[-1]}"
    return dataclasses.replace(task, name=name, num_classes=len(classes), **splits)


def few(task: data.Task, number: int, seed: int) -> np.ndarray:
    """Draw the training images that have labels, as many of each class as of others."""
    rng, label = np.random.default_rng(seed), task.train["label"]
    order = rng.permutation(len(label))
    rank = np.zeros(len(label), int)
    for one in range(task.num_classes):
        rank[order[label[order] == one]] = np.arange((label == one).sum())
    chosen = np.argsort(rank + rng.random(len(label)), kind="stable")[:number]
    return np.isin(np.arange(len(label)), chosen)


def labelled(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn from the labels that there are."""
    loss = optax.softmax_cross_entropy_with_integer_labels(
        student.logits, batch["label"]
    )
    return {"hard": objectives.masked_mean(loss, batch["labelled"])}


def _teacher_of(run: Run, config: Config, task: data.Task) -> _teacher.Teacher:
    recipe, rate = config.recipe(config.teacher_steps), config.teacher_learning_rate
    found = _teacher.get(run, task, config.teacher, recipe, seed=0, rate=rate)
    run.pin(f"teacher of {task.name}", found.row.seeds[0]["sha256"])
    return found


def _seen_from(task: data.Task, teacher: _teacher.Teacher) -> Network:
    """Return a teacher that reads a task's inputs, with its own normalisation."""
    own = teacher.fit.task
    scale = jnp.asarray(task.std / np.where(own.std > 0, own.std, 1))
    shift = jnp.asarray((task.mean - own.mean) / np.where(own.std > 0, own.std, 1))

    def view(inputs: Any) -> Any:
        shape = (1,) * (inputs.ndim - 1) + scale.shape
        return inputs * scale.reshape(shape) + shift.reshape(shape)

    return teachers.viewed(teacher.fit.exported, view)


def _labels(
    students: Students, task: data.Task, number: int
) -> tuple[Examples, Examples]:
    """Return the labelled training images, and all of them with a mark, by seed."""
    students.notes.append(
        f"Few labels: {min(number, len(task.train['label']))} of the "
        f"{len(task.train['label'])} training images, drawn anew for each seed. The "
        "learning rate was chosen on the whole validation split."
    )

    def known(seed: int) -> Split:
        kept = few(task, number, seed)
        return {name: array[kept] for name, array in task.train.items()}

    def marked(seed: int) -> Split:
        return {**task.train, "labelled": few(task, number, seed)}

    return known, marked


def merge(run: Run, config: Config, task: data.Task) -> report.Result:
    """Merge teachers that know some classes each into one student."""
    classes = groups(task, config.groups)
    own = config.groups * config.teacher_steps
    students = Students(run, config, task, 6, own)
    each = [_teacher_of(run, config, restricted(task, part)) for part in classes]
    together = teachers.mixture([_seen_from(task, one) for one in each], combine=None)
    taught_by = together, tuple(one.variables for one in each)
    for one in each:
        row = dataclasses.replace(one.row, name=f"teacher of {one.fit.task.name}")
        students.references.append((row, one.fit.exported))
    known, marked = _labels(students, task, config.labels)
    students.train("all labels", hard)
    students.train("few labels", hard, examples=known)
    kl = functools.partial(losses.soft_target_kl, temperature=config.temperature)
    for name, loss in (("probabilities", kl), ("logits", losses.logit_mse)):
        follow = _following(classes, loss)
        students.train(f"teachers' {name}", follow, teacher=taught_by)
        beside = _both(follow, labelled)
        students.train(
            f"few labels, {name}", beside, teacher=taught_by, examples=marked
        )
    students.notes += [
        "The teachers' own training used all labels of their classes; a teacher's "
        "accuracy is on these alone.",
    ]
    question = f"{config.groups} teachers of parts of {task.name} merged"
    return students.comparison(question, "few labels")


def _following(classes: Sequence[Classes], loss: Callable[..., Any]) -> Objective:
    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        of = teachers.own_classes(student.logits, teacher.logits, classes, loss)
        return {"teachers": of.mean()}

    return objective


def _both(one: Objective, other: Objective) -> Objective:
    return lambda s, t, batch: {**one(s, t, batch), **other(s, t, batch)}


def transfer(run: Run, config: Config, task: data.Task) -> report.Result:
    """Take the features of a teacher of other classes to few labels of new ones."""
    *before, new = groups(task, config.groups)
    source = restricted(task, [one for part in before for one in part])
    target = restricted(task, new)
    own = config.teacher_steps + len(config.seed_list) * config.steps
    students = Students(run, config, target, 4, own)
    teacher = _teacher_of(run, config, source)
    seen = _seen_from(target, teacher)
    known, _ = _labels(students, target, config.labels)
    learned = _pretrained(students, seen, teacher.variables, config.teacher.last)
    layer = config.student.last

    students.train("from scratch", hard, examples=known)
    fine = dataclasses.replace(students.learner, start=learned)
    students.train("fine-tuned", hard, learner=fine, examples=known)
    probes = {
        "linear probe": (students.student, learned, layer),
        "teacher, linear probe": (
            seen,
            lambda _: teacher.variables,
            config.teacher.last,
        ),
    }
    for name, (network, variables, reads) in probes.items():
        probe = _probe(students, network, variables, reads)
        students.train(name, hard, learner=probe, examples=known)
    students.notes += [
        f"The teacher knows all classes but {new[0]}-{new[-1]}.",
        f"Pretraining on the teacher's features, without labels: {config.steps} steps "
        "more, for the fine-tuned students and the linear probe.",
    ]
    question = f"From other classes of {task.name} to {target.name}"
    return students.comparison(question, "from scratch")


def _pretrained(
    students: Students, teacher: Network, held: Variables, reads: str
) -> Callable[[int], Variables]:
    """Train students to have the teacher's features; return them by seed."""
    config = students.config
    layer = config.student.last
    width = networks.shapes(teacher, students.example).features[reads].shape[-1]
    parts = {"transferred": networks.Part(nn.Dense(width), layer)}

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        hint = losses.hint(student.features["transferred"], teacher.features[reads])
        return {"hint": hint.mean()}

    fit = Fit(
        students.run,
        students.task,
        students.learner.with_parts(parts),
        objective,
        config.recipe(config.steps),
        teacher=(teacher, held),
    )
    rate = config.learning_rates[len(config.learning_rates) // 2]

    @functools.cache
    def trained(seed: int) -> Variables:
        return fit.export(
            fit(*place_of(students.run, "features", rate, seed), seed, rate)
        )

    return trained


def _probe(
    students: Students,
    network: Network,
    variables: Callable[[int], Variables],
    layer: str,
) -> Learner:
    """Return a frozen network with a new head, which alone is trained."""
    head = {"logits": networks.Part(nn.Dense(students.task.num_classes), layer)}
    whole = networks.with_parts(teachers.frozen(network), head)

    def start(seed: int) -> Variables:
        fresh = whole.init(jax.random.key(seed), students.example)
        return networks.join_parts(variables(seed), networks.parts_of(fresh))

    return Learner(
        whole,
        whole,
        start=start,
        trains=lambda path: path.startswith("parts"),
        steps_per_call=students.learner.steps_per_call,
    )
