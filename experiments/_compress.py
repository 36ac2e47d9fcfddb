"""What is made of teachers: students, and pruned and quantized copies."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from experiments import _frontier, _teacher
from experiments._artifacts import Made, code
from experiments._compress_config import NOTES, Config
from experiments._model import network
from experiments._run import Run
from experiments._students import Students, hard, soft
from kdjax import data, networks, report
from kdjax.base import Network, Variables
from kdjax.compress import prune, quantize

_CHOSEN = ("learning_rate", "validation_accuracy")
CALIBRATION, COMPARED = 512, 8
"""Training images that ranges are found on, and that ONNX files are compared on."""


class Compression(Students):
    """Teachers, one for each seed, and all that is made of them.

    Args:
      run: the run.
      config: its config.
      task: its data.

    Attributes:
      dense: the teachers.
      blank: students of which nothing is trained.
    """

    def __init__(self, run: Run, config: Config, task: data.Task) -> None:
        """Get the teachers."""
        own = len(config.seed_list) * config.teacher_steps
        super().__init__(run, config, task, config.kinds, own)
        self.config: Config = config
        recipe, rate = config.recipe(config.teacher_steps), config.teacher_learning_rate
        teachers: dict[int, Variables] = {}
        for seed in config.seed_list:
            found = _teacher.get(run, task, config.teacher, recipe, seed, rate)
            run.pin(f"teacher {seed}", found.row.seeds[0]["sha256"])
            teachers[seed] = found.variables
        module = config.teacher.module(task.num_classes)
        self.made: list[Made] = []
        self.dense = self.keep("teacher", "teacher", module, teachers.__getitem__)
        self.blank = Made("", "", config.student.module(task.num_classes))

    def keep(self, *what: Any, **more: Any) -> Made:
        """Make a row of networks; see `Made`."""
        self.made.append(Made(*what, **more))
        return self.made[-1]

    def learn(
        self,
        name: str,
        family: str,
        source: Made,
        temperature: float | None = None,
        *,
        module: Any = None,
        **changes: Any,
    ) -> Made:
        """Train a kind of networks, and make a row of them.

        Args:
          name: of the row.
          family: of the row.
          source: where they begin.
          temperature: of the soft targets of the teacher of their seed, beside labels;
            None for labels alone.
          module: of what is used in the end; by default the source's.
          **changes: of the `Learner`.
        """
        small = source.module == self.blank.module
        model = self.config.student if small else self.config.teacher
        learner = dataclasses.replace(
            self.learner,
            network=source.network,
            exported=source.network,
            start=source.variables,
            steps_per_call=model.steps_per_call,
        )
        learner = dataclasses.replace(learner, **changes)
        objective, teacher, said = hard, None, None
        if temperature is not None:
            alpha = self.config.alpha
            objective = soft(temperature, alpha)
            teacher = self.dense.network, self.dense.of
            said = (
                f"{code(self.dense.module)} of the same seed and data, by soft targets "
                f"at T = {temperature:g} of weight {alpha:g} beside the labels."
            )
        kind = self.train(name, objective, learner=learner, teacher=teacher)
        return self.keep(
            *(name, family, module or source.module, kind.variables),
            settings={key: kind.row.settings.get(key) for key in _CHOSEN},
            teacher=said,
        )

    def pruned(
        self,
        name: str,
        family: str,
        sparsity: float,
        temperature: float | None = None,
        *,
        at_random: bool = False,
        source: Made | None = None,
    ) -> Made:
        """Prune single weights gradually in the first half of the training.

        Args:
          name: of the row.
          family: of the row.
          sparsity: in the end.
          temperature: see `learn`.
          at_random: whether any weights go, not the smallest.
          source: what is pruned; None prunes the teachers.
        """
        half = max(self.config.steps // 2, 1)
        rising = prune.cubic(sparsity, start=0, stop=half)
        every = max(self.config.steps // 40, 1)
        score = prune.random(jax.random.key(0)) if at_random else prune.l1

        def around(tx: Any) -> Any:
            return prune.scheduled(tx, rising, every=every, score=score, scope="global")

        source = source or self.dense
        return self.learn(name, family, source, temperature, around=around)

    def cut(
        self, name: str, family: str, sparsity: float, temperature: float | None = None
    ) -> Made:
        """Prune whole units at the start, train what is left, and remove them."""
        units = self.dense.module.units()
        choose = functools.partial(prune.structured, layers=units, sparsity=sparsity)

        def silenced(params: Any) -> Any:
            variables = {"params": params}
            return prune.silencing(variables, units, choose(variables))["params"]

        def removed(variables: Variables) -> Variables:
            return prune.remove(variables, units, prune.alive(variables, units))

        first = self.dense.of(self.config.seed_list[0])
        narrow = self.dense.module.narrowed(prune.sizes(choose(first)))
        return self.learn(
            *(name, family, self.dense, temperature),
            module=narrow,
            exported=network(narrow),
            export=removed,
            around=lambda tx: prune.fixed(tx, silenced),
        )

    def aware(
        self,
        name: str,
        family: str,
        method: quantize.Method,
        temperature: float | None = None,
    ) -> Made:
        """Train with quantized weights from the start."""
        whole = self.dense.network
        return self.learn(
            *(name, family, self.dense, temperature),
            network=networks.transformed(whole, quantize.straight_through(method)),
            exported=_decoded(whole),
            export=functools.partial(_quantized, method=method),
        )

    def after(
        self,
        name: str,
        family: str,
        method: quantize.Method,
        source: Made | None = None,
    ) -> None:
        """Quantize what is trained: the teachers, or another row."""
        source = source or self.dense

        def variables(seed: int) -> Variables:
            return _quantized(source.of(seed), method=method)

        self.keep(name, family, source.module, variables, teacher=source.teacher)

    def in_int8(self, name: str, family: str) -> None:
        """Weights and activations of 8 bits, and products of integers."""
        images, dense = self.seen(CALIBRATION), self.dense
        eight = functools.partial(quantize.uniform, bits=8)

        def weights(seed: int) -> Variables:
            return _quantized(dense.of(seed), method=eight)

        @functools.cache
        def ranges(seed: int) -> quantize.Activations:
            batches = [{"image": images}]
            return quantize.calibrated(dense.network, dense.of(seed), batches)

        @functools.cache
        def running(seed: int) -> tuple[Network, Variables]:
            module, small = quantize.integer(
                dense.module, weights(seed), images, activations=ranges(seed)
            )
            return networks.from_linen(module), small

        self.keep(
            *(name, family, dense.module, weights),
            about=lambda seed: {"activations": dataclasses.asdict(ranges(seed))},
            running=running,
            examples=images,
            note="The safetensors file has weights, and ranges of activations, of 8 "
            "bits; the StableHLO program computes with both in int8, and is what was "
            "tested; the ONNX file is quantized by onnxruntime, with ranges of the "
            "same images.",
        )

    def seen(self, count: int) -> Any:
        """Return the first training images as networks see them."""
        part = {name: array[:count] for name, array in self.task.train.items()}
        [batch] = data.epoch(part, len(part["label"]), data.pipeline(self.task))
        return batch["image"]

    def frontier(self, pairs: Sequence[tuple[str, str]]) -> report.Frontier:
        """Write all networks to files, measure the files, return the table.

        Args:
          pairs: names of rows, of which the first is compared with the second.
        """
        config, seeds = self.config, self.config.seed_list
        compared = self.seen(COMPARED)
        rows = _frontier.measured(self.run, self.task, self.made, seeds, compared)
        named = {row.name: row for row in rows}
        rates = [f"{rate:g}" for rate in config.learning_rates]
        notes = (
            f"Budgets: teachers {config.teacher_steps} steps of {config.batch_size} at "
            f"the rate {config.teacher_learning_rate:g}; "
            f"each further training, students' too, {config.steps} steps and the "
            f"best of the rates {', '.join(rates)} on the validation split.",
            *NOTES,
            *_frontier.NOTES,
            _frontier.said_by_onnx(rows),
            *self.notes,
            self._about_data(),
        )
        return report.Frontier(
            self._title(f"Compression on {self.task.name}"),
            rows,
            gains=[report.paired_gain(named[one], named[than]) for one, than in pairs],
            notes=notes,
            columns=("accuracy", "stored", "flops", "latency", "onnx_latency"),
        )


@functools.cache
def _decoded(network: Network) -> Network:
    """Return the network of variables that may be quantized."""
    return networks.transformed(network, quantize.dequantized)


def _quantized(variables: Variables, method: quantize.Method) -> Variables:
    return {**variables, "params": quantize.quantized(variables["params"], method)}
