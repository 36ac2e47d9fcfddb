"""What is to be learned: data, what networks read of it, how answers are measured."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, metrics, processes, report, train, trees
from kdjax.base import Batch, Network, Outputs, Select, Variables, pick
from kdjax.teachers import cache

EVALUATION_BATCH = 512
_JUDGED = "judge/answer"
Arrays = Mapping[str, Any]
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """What a teacher said, in the teacher's place.

    Attributes:
      view: makes the views of the training images that it saw.
      splits: what it said of each split, by name.
    """

    view: data.Views
    splits: Mapping[str, cache.Cache]


Judge = tuple[Network, Variables] | Told


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Data of any field, ready for networks.

    Attributes:
      name: of the data.
      train: arrays `[n, ...]` by name.
      validation: the same, for choosing.
      test: the same, for the final figures only.
      splits: one sentence that says how the splits were made.
      example: what a network reads of one example; only shapes and dtypes count.
      inputs: what networks read of a batch.
      measure: `measure(outputs, batch) -> {name: [batch, ...]}`. Not needed where there
        is `tried`.
      answer: `answer(outputs) -> [batch, ...]`, what agreement with a judge is about;
        None if nobody asks.
      finished: `finished(means, examples) -> figures`, of the means of what was
        measured and their number.
      figure: the one that counts, by name.
      transform: what becomes of a batch before networks see it, without augmentation.
      augmented: `augmented(augmentations) -> transform` in training.
      tried: `tried(network, variables, split) -> figures` where figures are no means
        over a split, such as returns in an environment; it takes the place of
        `measure`.
      tokens: tokens of one example, where speed is told in them.
    """

    name: str
    train: Arrays
    validation: Arrays
    test: Arrays
    splits: str
    example: Any
    inputs: Select
    measure: Callable[[Outputs, Any], dict[str, Any]] | None = None
    answer: Callable[[Outputs], Any] | None = None
    finished: Callable[[dict[str, Any], int], Figures] = lambda means, _: means
    figure: str = "accuracy"
    transform: Any = None
    augmented: Callable[[list[Any]], Any] | None = None
    tried: Callable[[Network, Variables, str], Figures] | None = None
    tokens: int | None = None
    _judged: dict[str, tuple[Judge, Arrays]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays of the three splits: what was trained on."""
        return trees.fingerprint(
            {"train": self.train, "validation": self.validation, "test": self.test}
        )

    def in_training(self, augmentations: list[Any]) -> Any:
        """Return the transform of the training batches."""
        return self.augmented(augmentations) if self.augmented else self.transform

    def score(self, figures: Mapping[str, float]) -> float:
        """Return the figure that counts, turned so that more is better."""
        return report.FIGURES[self.figure].better * figures[self.figure]

    def figures(
        self,
        network: Network,
        variables: Variables,
        split: str,
        judge: Judge | None = None,
        shardings: train.Shardings | None = None,
    ) -> Figures:
        """Return what is measured of a network over a split, on all devices."""
        if self.tried is not None:
            return self.tried(network, trees.to_host(variables), split)
        arrays = {**getattr(self, split), **self._answers(judge, split, shardings)}
        count = len(next(iter(arrays.values())))
        batches = data.epoch(
            arrays,
            min(EVALUATION_BATCH, count),
            self.transform,
            sharding=shardings.batch if shardings else None,
        )
        about = self.measure, self.answer, self.inputs, shardings
        evaluate = _evaluation(network, *about)
        variables = shardings.place(variables) if shardings else variables
        return self.finished(evaluate(variables, batches), count)

    def _answers(
        self, judge: Judge | None, split: str, shardings: train.Shardings | None
    ) -> Arrays:
        """Return what a judge answers to all of a split, who is asked once."""
        if judge is None or self.answer is None:
            return {}
        known = self._judged.get(split)
        if known is None or known[0] is not judge:
            answers = self._ask(judge, self.answer, split, shardings)
            known = self._judged[split] = judge, {_JUDGED: answers}
        return known[1]

    def _ask(self, judge: Judge, answer: Any, split: str, shardings: Any) -> np.ndarray:
        if isinstance(judge, Told):
            of_told = cache.taught(lambda _, teacher, __: answer(teacher))
            say = jax.jit(lambda batch: of_told(None, None, batch))
            return asked(judge.splits[split].view(0), say)
        network, variables = judge
        if shardings:
            variables = shardings.place_teacher(variables)

        @jax.jit
        def of_network(variables: Variables, batch: Batch) -> Any:
            return answer(network.apply(variables, pick(batch, self.inputs))[0])

        return asked(
            getattr(self, split),
            lambda x: of_network(variables, x),
            self.transform,
            shardings,
        )


@functools.cache
def _evaluation(
    network: Network, measure: Any, answer: Any, inputs: Select, shardings: Any
) -> Any:
    """Return what measures a network, and how often it answers as the judge does."""

    def measured(outputs: Outputs, _: None, batch: Batch) -> dict[str, Any]:
        found = dict(measure(outputs, batch))
        if _JUDGED in batch:
            same = answer(outputs) == batch[_JUDGED]
            found["agreement"] = same.reshape(len(same), -1).mean(1)
        return found

    return train.make_eval(network.apply, measured, inputs=inputs, shardings=shardings)


def classification(outputs: Outputs, batch: Batch) -> dict[str, Any]:
    """Measure a classifier."""
    return metrics.classification(outputs, None, batch)


def likeliest(outputs: Outputs) -> Any:
    """Return the class that a classifier names."""
    return outputs.logits.argmax(-1)


def calibrated(means: dict[str, Any], _: int) -> Figures:
    """Return the figures of a classifier, with the error of its calibration."""
    gap = means.pop("calibration_gap")
    return {**means, "calibration_error": metrics.calibration_error(gap)}


def asked(
    arrays: Arrays,
    say: Callable[[Any], Any],
    transform: Any = None,
    shardings: train.Shardings | None = None,
) -> Any:
    """Return what is said of all examples, `[n, ...]`, asked batch by batch, once.

    Args:
      arrays: `[n, ...]` by name.
      say: `say(batch) -> pytree` of arrays `[batch, ...]`; some rows may be padding.
      transform: of a batch before it is asked about.
      shardings: over which devices it is asked.
    """
    size, parts = min(EVALUATION_BATCH, len(next(iter(arrays.values())))), []
    sharding = shardings.batch if shardings else None
    for batch in data.epoch(arrays, size, transform, sharding=sharding):
        kept, said = trees.to_host((batch["mask"], say(batch)))
        parts.append(jax.tree.map(lambda x, k=kept: x[k], said))
    said = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    return said if shardings else processes.shared(said)


def of(task: data.Task | Problem) -> Problem:
    """Return a task of images as a problem, and a problem as it is."""
    if isinstance(task, Problem):
        return task
    return Problem(
        task.name,
        task.train,
        task.validation,
        task.test,
        task.splits,
        example=jnp.zeros((1, *task.train["image"].shape[1:])),
        inputs="image",
        measure=classification,
        answer=likeliest,
        finished=calibrated,
        transform=data.pipeline(task),
        augmented=lambda augmentations: data.pipeline(task, *augmentations),
    )
