"""Do soft targets help a small recogniser that must answer while somebody speaks?

Hinton et al., "Distilling the knowledge in a neural network" (2015, sections 4 and 6,
https://arxiv.org/abs/1503.02531) train acoustic models on the soft targets of others,
frame by frame, and find that with them 3 % of the data teach almost what all teach.
Here a GRU that reads both ways teaches spoken digits to a small one that reads no later
frame: by soft targets of frames (https://doi.org/10.1109/ICASSP.2018.8461995), of
utterances, or of both. Nobody in the test was heard in training.

python -m experiments.speech                   # 1.5 minutes on 2 cores; gets 12 MB once
python -m experiments.speech --archive FILE    # where the set's .tar.gz is there
python -m experiments.speech --smoke           # seconds, made sounds
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

from experiments import _field, _run, _speech
from experiments._students import hard
from kdjax import checks, report
from kdjax.models import FrameGRU


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """Spoken digits."""

    dataset: Literal["spoken_digit", "made"] = "spoken_digit"
    """TFDS's Free Spoken Digits as waveforms, or sounds that the experiment makes."""
    archive: Path | None = None
    """Recordings DIGIT_SPEAKER_INDEX.wav in a .tar.gz; by default they are got."""
    seeds: tuple[int, ...] = (5,)
    steps: int = 600
    learning_rates: tuple[float, ...] = (1e-2, 3e-2)
    teacher_steps: int = 150
    teacher_learning_rate: float = 3e-3
    teacher_width: int = 64
    """Units in each direction of the teacher."""
    student_width: int = 16
    """Units of the student."""
    temperature: float = 2.0
    """Temperature of the soft targets."""
    alpha: float = 0.7
    """Weight of the soft targets, in [0, 1]; labels weigh the rest."""
    fraction: float = 0.03
    """Of the training recordings, for the last rows."""


SMOKE = Config(
    "made", (2,), 50, 16, learning_rates=(1e-2,), teacher_steps=50, fraction=0.1
)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    for name in ("teacher_width", "student_width", "temperature", "fraction"):
        checks.positive("config", **{name: getattr(config, name)})
    checks.fraction("config", alpha=config.alpha, fraction=config.fraction)

    with _run.Run("speech", config) as run:
        problem = _speech.problem(config.dataset, config.archive, config.run.data_dir)
        field = _field.Field(run, config, problem, kinds=6, steps_per_call=25)
        field.teach(FrameGRU(10, config.teacher_width, bidirectional=True), hard)
        students = _speech.Students(field, config.student_width)
        soft = partial(_speech.soft, config.temperature, config.alpha)
        kinds = {"frames": soft(1), "utterances": soft(0), "both": soft(0.5)}
        for name, objective in {_speech.ALONE: hard, **kinds}.items():
            students.train(name, objective)
        students.train(_speech.FEW, hard, config.fraction)
        students.train(_speech.FEW_SOFT, soft(0), config.fraction)
        return run.finish(students.table(kinds))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
