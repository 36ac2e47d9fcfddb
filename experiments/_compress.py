"""What is made of teachers: students, and pruned and quantized copies."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments import _artifacts, _teacher
from experiments._artifacts import Made
from experiments._config import Config as ImageConfig
from experiments._config import distinct
from experiments._recipe import Learner
from experiments._run import Run
from experiments._students import Kind, Students, hard
from kdjax import checks, data, networks, report
from kdjax.base import Network, Variables
from kdjax.compress import prune, quantize
from kdjax.objectives import Objective

_CHOSEN = ("learning_rate", "validation_accuracy")
CALIBRATION = 512
"""Training images that ranges of activations are found on."""
RANDOM = prune.random(jax.random.key(0))
METHODS: Mapping[str, Callable[[int], quantize.Method]] = {
    "uniform": lambda bits: functools.partial(
        quantize.uniform, bits=bits, bounds=quantize.mse()
    ),
    "k-means": lambda bits: functools.partial(quantize.kmeans, bits=bits),
    "powers of 2": lambda bits: functools.partial(quantize.power_of_two, bits=bits),
    "nf4": lambda bits: quantize.nf4,
    # while training weights follow their grid, and searching for bounds takes time
    "QAT": lambda bits: functools.partial(quantize.uniform, bits=bits),
}

SMALL: dict[str, Any] = {
    "seeds": (2,),
    "steps": 25,
    "teacher_steps": 25,
    "learning_rates": (1e-2,),
    "sparsities": (0.9,),
    "bits": (4,),
}


@dataclasses.dataclass(frozen=True)
class Config(ImageConfig):
    """Teachers, students, and how far the teachers are compressed."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which. Each has its own teacher."""
    steps: int = 1000
    """Training steps of each student and each compressed network."""
    learning_rates: tuple[float, ...] = (1e-3, 5e-3, 2e-2)
    """Tried for each kind of network; the best on the validation split counts."""
    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """Parts of the teacher's weights or units that are pruned, in (0, 1)."""
    bits: tuple[int, ...] = (8, 4, 2)
    """Bits of a quantized weight, 2 to 8."""
    temperature: float = 2.0
    """T of the soft targets, > 0."""
    hot: float = 20.0
    """A high T, for the trap of distilling networks of few bits."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""

    def check(self) -> None:
        """Raise ValueError for a number that cannot be."""
        self.refuse_teacher_from()
        checks.positive("config", temperature=self.temperature, hot=self.hot)
        checks.fraction("config", alpha=self.alpha)
        distinct(sparsities=self.sparsities, bits=self.bits)
        for sparsity in self.sparsities:
            checks.fraction("config", sparsities=sparsity)
        if not all(bits in range(2, 9) for bits in self.bits):
            raise ValueError(f"config: bits must be 2 to 8, got {list(self.bits)}")

    @property
    def kinds(self) -> int:
        """How many kinds of networks are trained."""
        return 3 + 3 * len(self.sparsities) + len(self.bits) + 5


class Compression(Students):
    """Teachers, one for each seed, and all that is made of them.

    Args:
      run: the run.
      config: its config.
      task: its data.
    """

    def __init__(self, run: Run, config: Config, task: data.Task) -> None:
        """Get the teachers."""
        own = len(config.seed_list) * config.teacher_steps
        super().__init__(run, config, task, config.kinds, own)
        self.config: Config = config
        recipe, rate = config.recipe(config.teacher_steps), config.teacher_learning_rate
        self.teachers: dict[int, Variables] = {}
        for seed in config.seed_list:
            found = _teacher.get(run, task, config.teacher, recipe, seed, rate)
            run.pin(f"teacher {seed}", found.row.seeds[0]["sha256"])
            self.teachers[seed] = found.variables
        self.module = config.teacher.module(task.num_classes)
        self.teacher = config.teacher.build(task.num_classes)
        self.whole = Learner(
            self.teacher,
            self.teacher,
            start=self.teachers.__getitem__,
            steps_per_call=config.teacher.steps_per_call,
        )
        self.made: list[Made] = []
        self.keep("teacher", "teacher", self.teacher, self.teachers.__getitem__)

    def keep(
        self,
        name: str,
        family: str,
        network: Network,
        variables: Callable[[int], Variables],
        **more: Any,
    ) -> None:
        """Make a row of networks: `variables(seed)` may be quantized."""
        self.made.append(Made(name, family, network, variables, **more))

    def learn(
        self,
        name: str,
        family: str,
        objective: Objective,
        learner: Learner,
        network: Network | None = None,
    ) -> Kind:
        """Train a kind of networks beside the teacher of their seed, and keep it."""
        teacher = (self.teacher, self.teachers.__getitem__)
        taught = None if objective is hard else teacher
        kind = self.train(name, objective, learner=learner, teacher=taught)
        chosen = {key: kind.row.settings[key] for key in _CHOSEN}
        network = network or learner.exported
        self.keep(name, family, network, kind.variables, settings=chosen)
        return kind

    def pruned(
        self,
        name: str,
        family: str,
        objective: Objective,
        sparsity: float,
        score: prune.Score = prune.l1,
        source: Kind | None = None,
    ) -> Kind:
        """Prune single weights gradually in the first half of the training.

        Args:
          name: of the row.
          family: of the row.
          objective: what is learned meanwhile.
          sparsity: in the end.
          score: what goes first.
          source: what is pruned; None prunes the teachers.
        """
        half = max(self.config.steps // 2, 1)
        rising = prune.cubic(sparsity, start=0, stop=half)

        def around(tx: Any) -> Any:
            every = max(self.config.steps // 40, 1)
            return prune.scheduled(tx, rising, every=every, score=score, scope="global")

        learner = self.whole
        if source:
            learner = dataclasses.replace(self.learner, start=source.variables)
        learner = dataclasses.replace(learner, around=around)
        return self.learn(name, family, objective, learner)

    def cut(
        self, name: str, family: str, objective: Objective, sparsity: float
    ) -> Kind:
        """Prune whole units at the start, train what is left, and remove them."""
        units = self.module.units()
        choose = functools.partial(prune.structured, layers=units, sparsity=sparsity)

        def silenced(params: Any) -> Any:
            variables = {"params": params}
            return prune.silencing(variables, units, choose(variables))["params"]

        def removed(variables: Variables) -> Variables:
            return prune.remove(variables, units, prune.alive(variables, units))

        first = self.teachers[self.config.seed_list[0]]
        left = prune.sizes(choose(first))
        learner = dataclasses.replace(
            self.whole,
            exported=_narrowed(self.module, tuple(left.items())),
            export=removed,
            around=lambda tx: prune.fixed(tx, silenced),
        )
        return self.learn(name, family, objective, learner)

    def aware(
        self, name: str, family: str, objective: Objective, method: quantize.Method
    ) -> Kind:
        """Train with quantized weights from the start."""
        rounded = networks.transformed(self.teacher, quantize.straight_through(method))
        learner = dataclasses.replace(
            self.whole,
            network=rounded,
            exported=_decoded(self.teacher),
            export=functools.partial(_quantized, method=method),
        )
        return self.learn(name, family, objective, learner, network=self.teacher)

    def after(
        self,
        name: str,
        family: str,
        method: quantize.Method,
        kind: Kind | None = None,
    ) -> None:
        """Quantize what is trained: the teachers, or another kind."""
        source = kind.variables if kind else self.teachers.__getitem__
        network = kind.fit.exported if kind else self.teacher
        self.keep(
            name, family, network, lambda seed: _quantized(source(seed), method=method)
        )

    def in_int8(self, name: str, family: str) -> None:
        """Weights and activations of 8 bits, and products of integers."""
        images = self.calibration()
        eight = functools.partial(quantize.uniform, bits=8)

        def weights(seed: int) -> Variables:
            return _quantized(self.teachers[seed], method=eight)

        @functools.cache
        def running(seed: int) -> tuple[Network, Variables]:
            ranges = quantize.calibrated(
                self.teacher, self.teachers[seed], [{"image": images}]
            )
            module, small = quantize.integer(
                self.module, weights(seed), images, activations=ranges
            )
            return networks.from_linen(module), small

        self.keep(name, family, self.teacher, weights, running=running, examples=images)

    def calibration(self) -> Any:
        """Return training images as networks see them."""
        part = {name: array[:CALIBRATION] for name, array in self.task.train.items()}
        [batch] = data.epoch(part, len(part["label"]), data.pipeline(self.task))
        return batch["image"]

    def frontier(self, pairs: Sequence[tuple[str, str]]) -> report.Frontier:
        """Write all networks to files, measure the files, return the table.

        Args:
          pairs: names of rows, of which the first is compared with the second.
        """
        config, seeds = self.config, self.config.seed_list
        rows = _artifacts.measured(self.run, self.task, self.made, seeds)
        named = {row.name: row for row in rows}
        rates = [f"{rate:g}" for rate in config.learning_rates]
        notes = (
            f"Budgets: teachers {config.teacher_steps} steps of {config.batch_size}; "
            f"what is trained after that, students too, {config.steps} steps and the "
            f"best of the rates {', '.join(rates)} on the validation split.",
            *_artifacts.NOTES,
            _artifacts.said_by_onnx(rows),
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
def _narrowed(module: Any, left: Sequence[tuple[str, int]]) -> Network:
    return networks.from_linen(module.narrowed(dict(left)))


@functools.cache
def _decoded(network: Network) -> Network:
    """Return the network of variables that may be quantized."""
    return networks.transformed(network, quantize.dequantized)


def _quantized(variables: Variables, method: quantize.Method) -> Variables:
    return {**variables, "params": quantize.quantized(variables["params"], method)}
