"""Text classification: the data, the networks, and the ways to follow a teacher."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import jax.numpy as jnp
from flax import linen as nn

from experiments import _field, _problem
from experiments._config import distinct
from experiments._problem import Problem
from experiments._recipe import Learner
from experiments._students import hard, soft
from experiments._text_data import grammar
from kdjax import checks, data, losses, objectives, report
from kdjax.base import Batch, Outputs, Variables
from kdjax.models import LSTM, TextCNN, Transformer
from kdjax.objectives import Objective

Pairs = Sequence[tuple[int, int]]
Students = dict[str, tuple[Learner, Objective]]
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
    """Channels of the teacher, and of the shallow student."""
    narrow_width: int = 32
    """Channels of the narrow student, whose hidden states a learned map widens."""
    heads: int = 4
    """Attention heads of the transformers."""
    teacher_depth: int = 2
    """Blocks of the teacher."""
    student_depth: int = 1
    """Blocks of the narrow and of the shallow student."""
    small_width: int = 32
    """Channels of the embeddings, of each direction (LSTM), of each window (CNN)."""
    dropout: float = 0.2
    """Of all networks, in training."""
    students: tuple[Literal["narrow", "shallow", "BiLSTM", "CNN"], ...] = (
        *("narrow", "shallow", "BiLSTM", "CNN"),
    )
    """Which are trained, in this order: two transformers, and two others."""

    def checked(self) -> Self:
        """Return it.

        Raises:
          ValueError: for a number that cannot be.
        """
        widths, sizes = ("width", "narrow_width"), ("length", "max_words", "heads")
        for name in (*widths, *sizes, "small_width", "teacher_depth", "student_depth"):
            checks.integer("config", 1, **{name: getattr(self, name)})
        checks.fraction("config", dropout=self.dropout)
        distinct(students=self.students)
        for name in widths:
            checks.heads("config", self.heads, **{name: getattr(self, name)})
        return super().checked()

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

    def transformer(self, task: data.TextTask, depth: int, width: int) -> Transformer:
        """Return a transformer of so many blocks and channels."""
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
        measure=_problem.classification,
        answer=_problem.likeliest,
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


def students(field: _field.Field, config: Any, task: data.TextTask) -> Students:
    """Return what learns, and from what, by name; three ways of every architecture."""
    assert field.teacher is not None
    pairs, outputs = layers(config), soft(config.temperature, config.alpha)
    within, depth = inside(config, pairs), config.student_depth
    narrow = field.learner(config.transformer(task, depth, config.narrow_width))
    wider = {f"hidden{ours}": nn.Dense(config.width) for ours, _ in pairs}
    shallow = field.learner(config.transformer(task, depth, config.width))
    copied = copying(shallow, field.teacher[1], pairs)
    found: Students = {
        "narrow alone": (narrow, hard),
        "narrow, soft targets": (narrow, outputs),
        "narrow, inside too": (narrow.with_parts(wider), within),
        "shallow alone": (shallow, hard),
        "shallow, copied": (copied, hard),
        "shallow, copied, inside too": (copied, within),
    }
    sizes = (task.num_classes, len(task.vocabulary), config.small_width)
    for name, make in (("BiLSTM", LSTM), ("CNN", TextCNN)):
        learner = field.learner(make(*sizes, dropout=config.dropout))
        found[f"{name} alone"] = (learner, hard)
        found[f"{name}, logits"] = (learner, logits(config.alpha))
        found[f"{name}, soft targets"] = (learner, outputs)
    return found


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
    return field.table(
        f"What a transformer teaches smaller networks, on {on}",
        names[0],
        ("accuracy", "agreement", "negative_log_likelihood", *_COSTS),
        f"Blocks of the narrow and the shallow transformer: {follow} of the teacher's "
        f"{config.teacher_depth}. A learned map, which is not exported, widens the "
        "hidden states of the narrow one. Copied: these blocks, the embeddings, the "
        "last norm and the head. Nothing is pretrained.",
        pairs=[(name, than) for name, than in pairs if name != than],
    )
