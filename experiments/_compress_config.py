"""How far networks are compressed, and by which methods."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from experiments._config import Config as ImageConfig
from experiments._config import distinct
from kdjax import checks
from kdjax.compress import quantize

_NEEDED = ("safetensors", "qwix", "onnx", "onnxruntime", "jax2onnx")
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
NOTES = (
    "QAT takes the smallest and largest weight of each channel for bounds, uniform "
    "after training those of least squared error.",
    "random: one order of the weights for all seeds. KD student 0.5 and 2 x steps go "
    "on from student distilled, for as many steps again.",
)

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
        """Raise for a number that cannot be, or a package that will be missed."""
        self.refuse_teacher_from()
        checks.positive("config", temperature=self.temperature, hot=self.hot)
        checks.fraction("config", alpha=self.alpha)
        # as rows are named
        distinct(sparsities=[float(f"{x:g}") for x in self.sparsities], bits=self.bits)
        if not all(0 < sparsity < 1 for sparsity in self.sparsities):
            raise ValueError(
                f"config: sparsities must be in (0, 1), got {[*self.sparsities]}"
            )
        if not all(bits in range(2, 9) for bits in self.bits):
            raise ValueError(f"config: bits must be 2 to 8, got {list(self.bits)}")
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f"experiments.compress needs {', '.join(missing)}:\n"
                "pip install 'kdjax[experiments]' && pip install --no-deps jax2onnx"
            )

    @property
    def kinds(self) -> int:
        """How many kinds of networks are trained."""
        return 3 * len(self.sparsities) + len(self.bits) + 11
