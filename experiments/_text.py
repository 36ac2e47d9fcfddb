"""Text classification: the data, the networks, and the ways to follow a teacher."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import jax.numpy as jnp
from flax import linen as nn

from experiments import _field, _problem
from experiments._config import distinct
from experiments._problem import Problem
from experiments._recipe import Learner
from experiments._students import hard, soft
from experiments._text_data import grammar
from kdjax import checks, data, losses, metrics, objectives, report
from kdjax.base import Batch, Outputs, Variables
from kdjax.models import LSTM, TextCNN, Transformer
from kdjax.objectives import Objective

Pairs = Sequence[tuple[int, int]]
Students = Mapping[str, tuple[Learner | nn.Module, Objective]]
_COSTS = ("parameters", "flops", "latency")


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """Sentences and networks."""

    dataset: str = "clinc_oos"
    """A TFDS set of texts with labels, or "grammar": sentences made here."""
    length: int = 20
    """Words that a sentence is cut or padded to."""
    max_words: int = 10_000
    """The most words that are known."""
    width: int = 128
    """Channels of the teacher."""
    student_width: int | None = None
    """Channels of the transformer student: the teacher's by default; with others a
    learned map widens its hidden states, and no layers are copied."""
    heads: int = 4
    """Attention heads of the transformers."""
    teacher_depth: int = 2
    """Blocks of the teacher."""
    student_depth: int = 1
    """Blocks of the transformer student."""
    small_width: int = 16
    """Channels of the embeddings, of each direction (LSTM), of each window (CNN)."""
    dropout: float = 0.2
    """Of all networks, in training."""
    students: tuple[Literal["transformer", "BiLSTM", "CNN"], ...] = (
        "transformer",
        "BiLSTM",
        "CNN",
    )
    """Which are trained, in this order."""

    def checked(self) -> Self:
        """Return it.

        Raises:
          ValueError: for a number that cannot be.
        """
        sizes = ("length", "max_words", "width", "heads", "small_width")
        depths = ("teacher_depth", "student_depth")
        for name in (*sizes, *depths):
            checks.integer("config", 1, **{name: getattr(self, name)})
        width = self.width if self.student_width is None else self.student_width
        checks.integer("config", 1, student_width=width)
        checks.fraction("config", dropout=self.dropout)
        distinct(students=self.students)
        for name, channels in (("width", self.width), ("student_width", width)):
            if channels % self.heads:
                raise ValueError(
                    f"config: heads must divide {name} {channels}, got {self.heads}"
                )
        return dataclasses.replace(super().checked(), student_width=width)

    def load(self) -> data.TextTask:
        """Return the sentences."""
        if self.dataset == "grammar":
            return grammar(self.length, self.max_words)
        return data.load_text(
            self.dataset,
            data_dir=self.run.data_dir,
            length=self.length,
            max_words=self.max_words,
        )

    def transformer(
        self, task: data.TextTask, depth: int, width: int | None = None
    ) -> Transformer:
        """Return a transformer of so many blocks, by default as wide as the teacher."""
        width = width or self.width
        return Transformer(
            task.num_classes,
            len(task.vocabulary),
            width,
            self.heads,
            depth,
            hidden=2 * width,
            length=self.length,
            dropout=self.dropout,
        )


def problem(task: data.TextTask) -> Problem:
    """Return sentences as what is to be learned."""
    return Problem(
        task.name,
        task.train,
        task.validation,
        task.test,
        task.splits,
        example=jnp.ones((1, *task.train["tokens"].shape[1:]), jnp.int32),
        inputs="tokens",
        measure=metrics.classification,
        finished=_problem.calibrated,
    )


def layers(config: Config) -> Pairs:
    """Return which block of the teacher each of the student follows, from 1."""
    pairs = losses.align_layers(config.student_depth, config.teacher_depth)
    return [(ours + 1, theirs + 1) for ours, theirs in pairs]


def from_layers(teacher: Variables, pairs: Pairs) -> Variables:
    """Return a student that is made of its teacher's blocks, embeddings and head."""
    params = teacher["params"]
    blocks = {f"block{ours}": params[f"block{theirs}"] for ours, theirs in pairs}
    others = {name: x for name, x in params.items() if not name.startswith("block")}
    return {"params": {**others, **blocks}}


def copying(learner: Learner, teacher: Variables, pairs: Pairs) -> Learner:
    """Return a learner that starts as a part of its teacher, whatever the seed."""
    copied = from_layers(teacher, pairs)
    return dataclasses.replace(learner, start=lambda seed: copied)


def hidden_states(student: Any, teacher: Any, real: Any) -> tuple[Any, Any]:
    """Return the mean squared error of hidden states over tokens that are no padding.

    Args:
      student: `[batch, tokens, width]`.
      teacher: the same shape.
      real: `[batch, tokens]` booleans.
    """
    each = [x.reshape(-1, x.shape[-1]) for x in (student, teacher)]
    errors = losses.hint(*each).reshape(real.shape)
    return objectives.masked_mean(errors, real)


def inside(config: Any, pairs: Pairs) -> Objective:
    """Return soft targets beside what the blocks say.

    Hidden states of every pair of blocks as in TinyBERT; how the tokens of the last
    pair attend to each other and how their values relate, as in MiniLM.
    """
    outputs = soft(config.temperature, config.alpha)
    ours, theirs = pairs[-1]

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        real, s, t = batch["tokens"] != 0, student.features, teacher.features
        terms = {
            f"hidden{one}": objectives.weighted(
                config.hidden_weight / len(pairs),
                hidden_states(s[f"hidden{one}"], t[f"hidden{other}"], real),
            )
            for one, other in pairs
        }
        maps = losses.attention_map_kl(
            s[f"attention{ours}"], t[f"attention{theirs}"], where=real
        )
        values = losses.value_relation(
            s[f"values{ours}"], t[f"values{theirs}"], heads=config.heads, where=real
        )
        weight = config.relation_weight
        terms |= {"maps": weight * maps.mean(), "values": weight * values.mean()}
        return {**terms, **outputs(student, teacher, batch)}

    return objective


def logits(alpha: float) -> Objective:
    """Return the squared distance from the teacher's logits beside the labels."""

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        distance = losses.logit_mse(student.logits, teacher.logits).mean()
        labels = hard(student, teacher, batch)["hard"]
        return {"mse": alpha * distance, "hard": (1 - alpha) * labels}

    return objective


def transformers(field: _field.Field, config: Any, task: data.TextTask) -> Students:
    """Return transformer students by name: fresh ones, and parts of their teacher."""
    assert field.teacher is not None
    pairs, answers = layers(config), soft(config.temperature, config.alpha)
    module = config.transformer(task, config.student_depth, config.student_width)
    fresh, within = field.learner(module), inside(config, pairs)
    students = {
        "transformer alone": (fresh, hard),
        "transformer, soft targets": (fresh, answers),
        "transformer, inside too": (fresh, within),
    }
    if config.student_width != config.width:
        wider = {f"hidden{ours}": nn.Dense(config.width) for ours, _ in pairs}
        students["transformer, inside too"] = fresh.with_parts(wider), within
        return students
    copied = copying(fresh, field.teacher[1], pairs)
    return {
        **students,
        "transformer of copied layers alone": (copied, hard),
        "transformer of copied layers, inside too": (copied, within),
    }


def small(config: Any, task: data.TextTask) -> Students:
    """Return the students that are no transformers, by name."""
    sizes = (task.num_classes, len(task.vocabulary), config.small_width)
    modules = {
        "BiLSTM": LSTM(*sizes, dropout=config.dropout),
        "CNN": TextCNN(*sizes, dropout=config.dropout),
    }
    ways = {
        "{} alone": hard,
        "{}, logits": logits(config.alpha),
        "{}, soft targets": soft(config.temperature, config.alpha),
    }
    return {
        way.format(name): (module, objective)
        for name, module in modules.items()
        for way, objective in ways.items()
    }


def number_of_kinds(config: Config) -> int:
    """Return how many kinds of students a config asks for."""
    transformers = 5 if config.student_width == config.width else 3
    return sum(transformers if name == "transformer" else 3 for name in config.students)


def _architecture(name: str) -> str:
    return re.split(r"\W", name)[0]


def chosen(config: Config, names: Iterable[str]) -> list[str]:
    """Return the rows of the architectures that a config asks for, in its order."""
    return [
        name
        for architecture in config.students
        for name in names
        if _architecture(name) == architecture
    ]


def table(field: _field.Field, config: Config, names: Sequence[str]) -> report.Result:
    """Return the table; each row is compared with the first of its architecture."""
    first: dict[str, str] = {}
    pairs = [(name, first.setdefault(_architecture(name), name)) for name in names]
    made = config.dataset == "grammar"
    on = "sentences of a grammar, made here" if made else config.dataset
    follow = ", ".join(f"{ours} follows {theirs}" for ours, theirs in layers(config))
    copied = config.student_width == config.width
    more = (
        "These are what is copied, with the embeddings, the last norm and the head."
        if copied
        else "A learned map, which is not exported, widens its hidden states."
    )
    return field.table(
        f"What a transformer teaches smaller networks, on {on}",
        names[0],
        ("accuracy", "agreement", "negative_log_likelihood", *_COSTS),
        f"Transformer student's blocks: {follow} of the teacher's "
        f"{config.teacher_depth}. {more} Nothing is pretrained.",
        pairs=[(name, than) for name, than in pairs if name != than],
    )
