"""What of a transformer can small networks learn that classify sentences?

Its answers; its hidden states (TinyBERT, Jiao et al. 2020,
https://arxiv.org/abs/1909.10351); how its tokens attend to each other and its values
relate (MiniLM, Wang et al. 2020, https://arxiv.org/abs/2002.10957); its own layers to
start from (DistilBERT, Sanh et al. 2019, https://arxiv.org/abs/1910.01108). And its
logits alone, in a bidirectional LSTM (Tang et al. 2019,
https://arxiv.org/abs/1903.12136) and in a CNN (Kim 2014,
https://arxiv.org/abs/1408.5882). Nothing is pretrained: all see the same sentences.

python -m experiments.text                # clinc_oos: minutes on 2 cores
python -m experiments.text --smoke        # seconds, on sentences that it makes itself
python -m experiments.text --dataset glue/sst2 --length 40
"""

import dataclasses

from experiments import _run, _text
from experiments._field import Field
from experiments._students import hard
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_text.Config):
    """A teacher, and four smaller students."""

    seeds: tuple[int, ...] = (3,)
    steps: int = 400
    learning_rates: tuple[float, ...] = (1e-2,)
    weight_decay: float = 0.3
    teacher_steps: int = 1200
    teacher_learning_rate: float = 3e-3
    temperature: float = 2.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of soft targets, and of logits, in [0, 1]; labels weigh the rest."""
    hidden_weight: float = 1.0
    """Weight of the hidden states' squared error, > 0."""
    relation_weight: float = 1.0
    """Weight of attention maps, and of value relations, > 0."""


SIZES = {"width": 16, "heads": 2, "narrow_width": 8, "small_width": 8}
RATES = {"learning_rates": (1e-2,), "teacher_learning_rate": 1e-2}
SMOKE = Config("grammar", (1,), 100, teacher_steps=100, **SIZES, **RATES)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    for name in ("temperature", "hidden_weight", "relation_weight"):
        checks.positive("config", **{name: getattr(config, name)})
    checks.fraction("config", alpha=config.alpha)
    task = config.load()
    with _run.Run("text", config) as run:
        kinds = 3 * len(config.students)
        field = Field(run, config, _text.problem(task), kinds, steps_per_call=25)
        field.teach(config.transformer(task, config.teacher_depth, config.width), hard)
        students = _text.students(field, config, task)
        names = _text.chosen(config, students)
        for name in names:
            field.students(name, *students[name])
        return run.finish(_text.table(field, config, names))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
