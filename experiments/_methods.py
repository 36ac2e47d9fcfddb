"""Ways to distil beside the labels: what `feature`, `relation` and `compare` share."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from experiments._config import Config as ImageConfig
from experiments._images import Images
from experiments._model import Model
from experiments._run import Run
from experiments._students import hard
from kdjax import checks, data, networks, report
from kdjax.base import Batch, Network, Outputs, Variables
from kdjax.models import projectors
from kdjax.objectives import Objective

STAGES = ("stage1", "stage2", "stage3")
Loss = Callable[[Outputs, Outputs, Batch], Any]


class Taught(NamedTuple):
    """What a method does to the two networks.

    Attributes:
      loss: `loss(student, teacher, batch)`, a scalar before its weight.
      parts: learned parts beside the student, as `networks.with_parts` takes them.
      teacher: makes the teacher, if the method adds learned parts to it.
      exported: whether the parts stay in the student when it is used.
    """

    loss: Loss
    parts: Mapping[str, Any] = {}
    teacher: Callable[[], tuple[Network, Variables]] | None = None
    exported: bool = False


Build = Callable[[Images, tuple[str, ...]], Taught]


class Method(NamedTuple):
    """How a student learns from its teacher.

    Attributes:
      matches: what of the teacher it matches, in a few words.
      weight: of its loss, as published.
      build: `build(images, layers)` makes the loss of these layers, or of the method's
        own where none are given; it checks all shapes.
      labels: the weight of the labels beside it.
    """

    matches: str
    weight: float
    build: Build
    labels: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config(ImageConfig):
    """Residual networks of one family."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which."""
    steps: int = 200
    """Training steps of each student."""
    learning_rates: tuple[float, ...] = (5e-2,)
    """Tried for each kind of student; the best on the validation split counts."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """AdamW, or SGD with momentum 0.9."""
    weight_decay: float = 5e-4
    """Weight decay of teacher and students."""
    student: Model = Model(model="resnet")
    """The small network: by default resnet8."""
    teacher: Model = Model(model="resnet", depth=14)
    """The large one: by default resnet14."""
    teacher_steps: int = 400
    """Training steps of the teacher."""
    teacher_learning_rate: float = 5e-2
    """Peak learning rate of the teacher."""
    layers: tuple[str, ...] = ()
    """Features to match, of student and teacher; default: the method's own."""

    def check_layers(self, task: data.Task) -> None:
        """Look at the layers by their shapes, before anything is trained.

        Raises:
          ValueError: if one is not there, is given twice or is no feature.
        """
        if len(set(self.layers)) < len(self.layers) or "logits" in self.layers:
            raise ValueError(
                "config: layers must be features, all different; got "
                f"{list(self.layers)} (logits are what response methods match)"
            )
        pair = (model.build(task.num_classes) for model in (self.student, self.teacher))
        if self.layers and not self.teacher_from:
            example = jnp.zeros((1, *task.train["image"].shape[1:]))
            networks.match(*pair, example, self.layers, needs="batch")


SMOKE = {
    "seeds": (2,),
    "steps": 10,
    "teacher_steps": 10,
    "teacher": Model(model="resnet", depth=8),
}


def choose(methods: Mapping[str, Method], name: str) -> Method:
    """Return a method by name.

    Raises:
      ValueError: if there is none; it lists what there is.
    """
    if name in methods:
        return methods[name]
    close = difflib.get_close_matches(name, methods)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"config: there is no method {name!r}.{hint} There are: {', '.join(methods)}"
    )


def beside_labels(
    method: Method, taught: Taught, weight: float | None = None
) -> Objective:
    """Return a method's loss beside the labels; by default weighed as published."""
    weight = method.weight if weight is None else weight

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        labels = method.labels * hard(student, teacher, batch)["hard"]
        return {"distil": weight * taught.loss(student, teacher, batch), "hard": labels}

    return objective


def distil(
    images: Images,
    name: str,
    method: Method,
    taught: Taught,
    weight: float | None = None,
    family: str | None = None,
) -> None:
    """Train one kind of students by a method, beside the labels."""
    images.students(
        name,
        beside_labels(method, taught, weight),
        parts=taught.parts,
        exported=taught.exported,
        teacher=taught.teacher,
        family=family,
    )


def fitting(images: Images, methods: Mapping[str, Method]) -> dict[str, Taught]:
    """Return what the methods make of these networks; note those that do not fit."""
    taught = {}
    for name, method in methods.items():
        try:
            taught[name] = method.build(images, ())
        except ValueError as error:
            images.notes.append(f"{name} is left out: {error}")
    return taught


def each(loss: Callable[..., Any], *layers: str, needs: str = "channels") -> Build:
    """Return the `build` that sums a loss over layers, as they are."""

    def build(images: Images, chosen: tuple[str, ...]) -> Taught:
        names = chosen or layers
        images.match(names, needs)

        def summed(student: Outputs, teacher: Outputs, batch: Batch) -> Any:
            return sum(
                loss(student.features[n], teacher.features[n]).mean() for n in names
            )

        return Taught(summed)

    return build


def several(method: str, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Raise unless there are two layers or more."""
    if len(layers) < 2:
        raise ValueError(f"config: {method} compares layers; give two or more")
    return layers


def single(method: str, layers: tuple[str, ...]) -> str:
    """Return the one layer of a method that takes no more."""
    if len(layers) > 1:
        raise ValueError(f"config: {method} takes one layer, got {list(layers)}")
    return layers[0]


def of_logits(loss: Callable[..., Any], **settings: Any) -> Build:
    """Return the `build` of a loss between logits."""

    def build(images: Images, chosen: tuple[str, ...]) -> Taught:
        if chosen:
            raise ValueError(
                f"config: this method matches logits, not layers; got {list(chosen)}"
            )
        return Taught(lambda s, t, _: loss(s.logits, t.logits, **settings).mean())

    return build


def labelled(loss: Callable[..., Any]) -> Build:
    """Return the `build` of a loss between logits that looks at the labels, too."""
    return lambda *_: Taught(
        lambda s, t, batch: loss(s.logits, t.logits, batch["label"]).mean()
    )


def projected(loss: Callable[..., Any], *layers: str) -> Build:
    """Return the `build` that sums a loss over layers, through a regressor each."""

    def build(images: Images, chosen: tuple[str, ...]) -> Taught:
        shapes = images.match(chosen or layers, "batch")
        parts = {
            name: projectors.ConvRegressor(
                shape[-1], shape[1:-1], relu=not name.endswith("_preact")
            )
            for (name, _), (_, shape) in shapes.items()
        }
        return each(loss, *layers, needs="batch")(images, chosen)._replace(parts=parts)

    return build


def experiment(name: str, config: Any, methods: Mapping[str, Method]) -> report.Result:
    """Compare students taught by one method with students on labels alone."""
    method = choose(methods, config.method)
    config = config.checked()
    if config.weight is not None:
        checks.positive("config", weight=config.weight)
    task = config.load()
    config.check_layers(task)
    with Run(name, config) as run:
        images = Images(run, config, task, kinds=2)
        taught = method.build(images, config.layers)
        images.students("student alone", hard)
        distil(images, "student distilled", method, taught, config.weight)
        question = f"{config.method} on {config.dataset}: {method.matches}"
        return run.finish(
            images.result(question, better="student distilled", than="student alone")
        )
