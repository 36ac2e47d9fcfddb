"""Answers of a student and its teacher together, without further training."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments._images import Images
from experiments._problem import EVALUATION_BATCH
from experiments._students import Kind
from kdjax import data, metrics, report, teachers
from kdjax.base import Network, Outputs, Variables

Figures = dict[str, Any]
Answer = Callable[[Array, Array, Any], tuple[Array, Array]]

COLUMNS = (
    *("accuracy", "negative_log_likelihood", "calibration_error"),
    *("parameters", "flops"),
)


class Said(NamedTuple):
    """The logits of a student and of its teacher on a split, and the labels."""

    student: Array
    teacher: Array
    labels: Array


def _averaged(mean: Callable[..., Array]) -> Answer:
    def answer(student: Array, teacher: Array, weight: Any) -> tuple[Array, Array]:
        logits = mean([student, teacher], jnp.stack([weight, 1 - weight]))
        return logits, jnp.ones(len(logits))

    return answer


def most_accurate(tried: Sequence[Figures], teacher: float) -> Figures:
    """Return the most accurate; of equals the one with the lowest NLL."""
    return max(tried, key=lambda x: (x["accuracy"], -x["negative_log_likelihood"]))


def cheapest(tried: Sequence[Figures], teacher: float) -> Figures:
    """Return the one that asks least, as accurate as the teacher or as any can be."""
    wanted = min(teacher, max(x["accuracy"] for x in tried))
    return min((x for x in tried if x["accuracy"] >= wanted), key=lambda x: x["asked"])


class Way(NamedTuple):
    """A way to answer together, with one setting.

    Attributes:
      name: what the table calls it.
      answer: `answer(student_logits, teacher_logits, setting)` returns logits, and of
        each example whether the teacher was asked.
      setting: what the setting is called.
      choose: returns the best of the figures that settings have on the validation
        split, given the teacher's accuracy there.
    """

    name: str
    answer: Answer
    setting: str
    choose: Callable[[Sequence[Figures], float], Figures]


CASCADE = Way("cascade", teachers.cascade, "threshold", cheapest)
WAYS = (
    Way(
        "probabilities", _averaged(teachers.mean_probabilities), "weight", most_accurate
    ),
    Way("logits", _averaged(teachers.mean_logits), "weight", most_accurate),
    CASCADE,
)
NOTES = (
    "FLOPs: mean per example; both networks' for the averages, for the cascade the "
    "student's, and the teacher's where it is asked. One teacher: intervals are over "
    "the students.",
    "Averages: the student's weight is the most accurate one on the validation split, "
    "seed by seed; of equals the one with the lowest NLL.",
    "Cascade: the threshold is the cheapest one that is at least as accurate as the "
    "teacher on the validation split, or else as any other, seed by seed.",
)


@functools.cache
def _apply(network: Network) -> Any:
    return jax.jit(lambda variables, inputs: network.apply(variables, inputs)[0].logits)


def say(network: Network, variables: Variables, task: data.Task, split: str) -> Array:
    """Return the logits of a network on a split, `[n, classes]`."""
    arrays = getattr(task, split)
    size = min(EVALUATION_BATCH, len(arrays["label"]))
    batches = data.epoch(arrays, size, data.pipeline(task))
    parts = [_apply(network)(variables, batch["image"]) for batch in batches]
    return jnp.concatenate(parts)[: len(arrays["label"])]


@functools.partial(jax.jit, static_argnums=0)
def _measured(answer: Answer, said: Said, setting: Any) -> dict[str, Array]:
    logits, asked = answer(said.student, said.teacher, setting)
    outputs, batch = Outputs(logits, {}), {"label": said.labels}
    return {**metrics.classification(outputs, None, batch), "asked": asked}


def figures(way: Way, said: Said, setting: float) -> Figures:
    """Return what answering so gives, and how often the teacher is asked."""
    rows = jax.device_get(_measured(way.answer, said, jnp.float32(setting)))
    means = {name: values.mean(0, dtype=np.float64) for name, values in rows.items()}
    error = metrics.calibration_error(means.pop("calibration_gap"))
    means = {name: float(mean) for name, mean in means.items()}
    return {**means, "calibration_error": error, way.setting: setting}


def chosen(way: Way, validation: Said, settings: Sequence[float]) -> float:
    """Return the setting that the validation split chooses."""
    tried = [figures(way, validation, setting) for setting in settings]
    right = np.asarray(metrics.accuracy(validation.teacher, validation.labels))
    return way.choose(tried, right.mean(dtype=np.float64))[way.setting]


class Fusion(Images):
    """An image task, its teacher, and students that may answer together with it."""

    def together(
        self, students: Kind, settings: Mapping[str, Sequence[float]]
    ) -> report.Tradeoff:
        """Return the table of all ways to answer, and the curve of the cascade.

        Args:
          students: of the teacher.
          settings: what is tried of each way's setting, by the setting's name.
        """
        teacher, student = self.measured()
        validation, test = (self._said(students, s) for s in ("validation", "test"))

        def row(way: Way, settings: Sequence[float], name: str = "") -> report.Row:
            given = zip(test, settings, strict=True)
            found = [figures(way, said, setting) for said, setting in given]
            return self._row(name or way.name, found, student.cost, teacher.cost)

        fused = [
            row(way, [chosen(way, one, settings[way.setting]) for one in validation])
            for way in WAYS
        ]
        curve = [
            row(CASCADE, [threshold] * len(test), f"threshold {threshold:g}")
            for threshold in sorted(settings[CASCADE.setting])
        ]
        return report.Tradeoff(
            self._title(f"Student and teacher together on {self.task.name}"),
            [student, teacher, *fused],
            _gains(student, teacher, fused),
            [*NOTES, _settings(fused), *self._rates([student]), self._about_data()],
            COLUMNS,
            curve=curve,
            chosen=CASCADE.name,
        )

    def _said(self, students: Kind, split: str) -> list[Said]:
        """Ask every network once about a split."""
        labels = jnp.asarray(getattr(self.task, split)["label"])
        teacher = say(*self.teacher.frozen, self.task, split)
        return [
            Said(
                say(self.student, students.variables(seed), self.task, split),
                teacher,
                labels,
            )
            for seed in self.config.seed_list
        ]

    def _row(
        self,
        name: str,
        found: Sequence[Figures],
        small: Mapping[str, float],
        large: Mapping[str, float],
    ) -> report.Row:
        given = zip(self.config.seed_list, found, strict=True)
        seeds = [{"seed": seed, **figures} for seed, figures in given]
        asked = float(np.mean([figures["asked"] for figures in found]))
        cost = {key: small[key] + large[key] for key in ("parameters", "bytes")}
        cost["flops"] = small["flops"] + asked * large["flops"]
        return report.Row(name, seeds, cost, {"asked": asked})


def _gains(
    student: report.Row, teacher: report.Row, fused: Sequence[report.Row]
) -> list[report.Gain]:
    [of_teacher] = teacher.seeds
    repeated = [{**of_teacher, "seed": one["seed"]} for one in student.seeds]
    teacher = dataclasses.replace(teacher, seeds=repeated)
    gains = [report.paired_gain(row, teacher) for row in fused]
    return [*gains, report.paired_gain(fused[-1], student)]


def _settings(fused: Sequence[report.Row]) -> str:
    texts = []
    for way, row in zip(WAYS, fused, strict=True):
        given = row.values(way.setting)
        low, high = given.min(), given.max()
        span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        texts.append(f"{way.name} {way.setting} {span}")
    asked = 100 * fused[-1].settings["asked"]
    return f"Chosen: {', '.join(texts)}, which asks about {asked:.1f} % of the test."
