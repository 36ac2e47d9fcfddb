"""Which divergence, and whose sentences, teach a small language model best?

A decoder on real text learns from a larger one: forward KL (Hinton 2015), reverse KL
(MiniLLM, https://arxiv.org/abs/2306.08543), Jensen-Shannon and on-policy sampling (GKD,
https://arxiv.org/abs/2306.13649: with probability lmbda the student writes and the
teacher scores), skew KL (DistiLLM, https://arxiv.org/abs/2402.03898), the teacher's
likeliest tokens stored once, sentences that it samples (Kim and Rush 2016,
https://arxiv.org/abs/1606.07947, search for the likeliest), and forward KL from hidden
states without logits. The text is what Python's help() says, a data set, or any file.

python -m experiments.language_model                # minutes on 2 cores
python -m experiments.language_model --smoke        # seconds
python -m experiments.language_model --dataset tiny_shakespeare
python -m experiments.language_model --text-file book.txt --vocabulary 2048
"""

import dataclasses
from pathlib import Path

from experiments import _config, _field, _run
from experiments import _language_model as lm
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """Text, and two decoders."""

    dataset: str = lm.PYTHON
    """The topics of Python's help(), or a TFDS set of one text in each example."""
    text_file: Path | None = None
    """A UTF-8 text to take instead."""
    characters: int | None = None
    """How many of the text's first characters are used; all by default."""
    vocabulary: int = 512
    """Tokens: 256 bytes, and merged pairs of them."""
    length: int = 64
    """Tokens in a window."""
    seeds: tuple[int, ...] = (3,)
    steps: int = 450
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (3e-3,)
    teacher_steps: int = 1500
    teacher_learning_rate: float = 2e-3
    teacher_width: int = 128
    """Channels of the teacher, which has 4 blocks."""
    student_width: int = 48
    """Channels of the student, which has 2 blocks."""
    methods: tuple[lm.Method, ...] = lm.ALL
    """Ways to learn from the teacher, a row each."""
    lmbda: float = 0.5
    """Part of the batches whose second half the student writes itself (on-policy)."""


SMOKE = Config(
    length=16,
    seeds=(2,),
    steps=20,
    teacher_steps=40,
    teacher_width=32,
    student_width=16,
)


def main(config: Config) -> report.Result:
    """Train the teacher and its students; return the table."""
    config = config.checked()
    widths = {"teacher": config.teacher_width, "student": config.student_width}
    checks.positive("config", **widths)
    checks.integer("config", 4, 512, length=config.length)
    checks.fraction("config", lmbda=config.lmbda)
    _config.distinct(methods=config.methods)
    problem = lm.problem(*lm.text_of(config), config.vocabulary, config.length)
    with _run.Run("language_model", config) as run:
        field = _field.Field(run, config, problem, kinds=1 + len(config.methods))
        return run.finish(lm.compared(field, config))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
