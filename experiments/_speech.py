"""Spoken digits as a problem, sounds in their place, and students of a teacher."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _problem
from experiments._field import Field
from experiments._problem import Arrays, Problem
from experiments._students import hard
from kdjax import losses, objectives, report
from kdjax.base import Batch, Outputs, Variables
from kdjax.data import audio, speech
from kdjax.models import FrameGRU
from kdjax.objectives import Objective
from kdjax.teachers import cache

FRAMES = 40
"""Heard of each recording, 20 ms apart: its first 0.8 s."""
ALONE = "student alone"
FEW, FEW_SOFT = "few, alone", "few, utterances"
_TITLES = {"spoken_digit": "spoken digits", "made": "made sounds, not speech"}

# Part of what splits and made sounds mean: changing it changes every result.
_SEED = 20_150_309
_VOWELS = np.array([[300, 2300], [450, 1900], [750, 1250], [500, 900], [320, 800]])
_COLUMNS = (
    "accuracy",
    "gain",
    "frame_accuracy",
    "negative_log_likelihood",
    "parameters",
    "latency",
)


def made(speakers: str = "abcde", count: int = 6) -> speech.Recordings:
    """Return sounds in the place of speech: "digits" that glide between two vowels.

    Speakers differ in pitch and length of the vocal tract, recordings of one in length,
    loudness, noise and a little in pitch.
    """
    rng = np.random.default_rng(_SEED)
    glides = list(itertools.combinations(_VOWELS, 2))  # of five vowels: ten
    waves = {}
    for speaker in speakers:
        pitch, tract = rng.uniform(90, 220), rng.uniform(0.9, 1.1)
        for digit, number in itertools.product(range(10), range(count)):
            samples = int(rng.uniform(0.25, 0.6) * speech.RATE)
            time = np.arange(samples) / speech.RATE
            place = np.clip(2 * time / time[-1] - 0.5, 0, 1)[:, None]
            start, end = glides[digit]
            formants = tract * (start + (end - start) * place)
            tones = np.sin(2 * np.pi * formants.cumsum(0) / speech.RATE).sum(1)
            voice = 1 + np.cos(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * time)
            sound = voice * tones + rng.uniform(0.1, 0.5) * rng.normal(size=samples)
            loudness = rng.uniform(500, 4000) * np.hanning(samples)
            waves[f"{digit}_{speaker}_{number}"] = (loudness * sound).astype(np.int16)
    digits, speakers, _ = zip(*(name.split("_") for name in waves), strict=True)
    return speech.Recordings(waves, np.array(digits, np.int32), np.array(speakers))


def problem(dataset: str, archive: Path | None, data_dir: Path | None) -> Problem:
    """Return the problem of a config.

    Raises:
      ValueError: for an archive of made sounds, or one of too few speakers.
      data.Unavailable: if the recordings cannot be had.
    """
    if dataset != "made":
        return of(dataset, speech.load(archive=archive, data_dir=data_dir))
    if archive:
        raise ValueError(
            f"config: made sounds have no archive, got {archive}; leave it out, or "
            "give --dataset spoken_digit"
        )
    return of(dataset, made())


def of(name: str, recordings: speech.Recordings) -> Problem:
    """Return recordings as a problem whose splits share no speaker."""
    speakers = sorted(set(recordings.speaker.tolist()))
    if len(speakers) < 3:
        raise ValueError(
            "speech: needs at least 3 speakers, some to train with, one to choose and "
            f"one to test with, got {speakers}"
        )
    *several, chooser, tester = speakers
    frames, length = audio.utterances(recordings.waves, FRAMES)
    frames = np.asarray(audio.subtract_running_mean(jnp.asarray(frames)))
    heard = np.arange(FRAMES)[None] < length[:, None]
    moments = frames[heard & np.isin(recordings.speaker, several)[:, None]]
    scaled = np.where(heard[..., None], (frames - moments.mean(0)) / moments.std(0), 0)

    def split(speakers: list[str]) -> dict[str, np.ndarray]:
        rows = np.isin(recordings.speaker, speakers)
        return {
            "frames": scaled[rows].astype(np.float32),
            "length": length[rows],
            "label": recordings.label[rows],
        }

    parts = [split(who) for who in (several, [chooser], [tester])]
    train, validation, test = (f"{len(part['label']):,}" for part in parts)
    return Problem(
        name,
        *parts,
        splits=(
            f"split by speaker, in the order of their names: train {train} recordings "
            f"({', '.join(several)}), validation {validation} ({chooser}), test {test} "
            f"({tester}). Heard are the first {FRAMES} frames of 20 ms."
        ),
        example=(jnp.zeros((1, *frames.shape[1:])), jnp.full(1, FRAMES)),
        inputs=_inputs,
        measure=_measure,
        answer=_problem.likeliest,
        finished=_finished,
    )


def _inputs(batch: Batch) -> tuple[Any, Any]:
    return batch["frames"], batch["length"]


def _spoken(batch: Batch) -> Any:
    """Return which frames are no padding, `[batch, time]`."""
    return jnp.arange(batch["frames"].shape[1])[None] < batch["length"][:, None]


def _measure(outputs: Outputs, batch: Batch) -> dict[str, Any]:
    """Measure utterances, and the frames of which they are made."""
    right = outputs.features["frames"].argmax(-1) == batch["label"][:, None]
    return {
        **_problem.classification(outputs, batch),
        "right_frames": (right & _spoken(batch)).sum(1),
        "all_frames": batch["length"],
    }


def _finished(means: dict[str, Any], examples: int) -> dict[str, float]:
    share = means.pop("right_frames") / means.pop("all_frames")
    return {**_problem.calibrated(means, examples), "frame_accuracy": share}


def soft(temperature: float, alpha: float, share: float) -> Objective:
    """Return soft targets of frames and of utterances beside the labels.

    Args:
      temperature: T of both.
      alpha: weight of both together; the labels weigh the rest.
      share: of the frames in it.
    """

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        said = (student.features["frames"], teacher.features["frames"])
        where = _spoken(batch)
        frames = losses.ctc_frames(*said, temperature=temperature, where=where)
        whole = losses.soft_target_kl(
            student.logits, teacher.logits, temperature=temperature
        )
        labels = hard(student, teacher, batch)["hard"]
        mean = objectives.masked_mean(frames, where)
        return {
            "frames": objectives.weighted(alpha * share, mean),
            "utterances": alpha * (1 - share) * whole.mean(),
            "hard": (1 - alpha) * labels,
        }

    return objective


def few(arrays: Arrays, fraction: float, seed: int) -> Arrays:
    """Return a random fraction of the examples, of each digit as many to within one."""
    label = np.asarray(arrays["label"])
    order = np.random.default_rng([_SEED, seed]).permutation(len(label))
    turn = np.zeros(len(label), int)  # every digit's first one, then every second, ...
    for digit in set(label.tolist()):
        of_digit = order[label[order] == digit]
        turn[of_digit] = np.arange(len(of_digit))
    count = max(1, round(fraction * len(label)))
    rows = np.sort(order[np.argsort(turn[order], kind="stable")][:count])
    return {field: array[rows] for field, array in arrays.items()}


class Students:
    """Streaming students of one teacher, which is asked once about each recording.

    Args:
      field: the problem and its trained teacher.
      width: of the students.
    """

    def __init__(self, field: Field, width: int) -> None:
        """Ask the teacher about the training recordings."""
        self.field = field
        self._learner = field.learner(FrameGRU(10, width))
        self._arrays = {**field.problem.train, **_said(field)}

    def train(self, name: str, objective: Objective, fraction: float = 1.0) -> None:
        """Train one kind, on a fraction of the recordings that the seed draws."""
        arrays = self._arrays
        self.field.train(
            name,
            cache.taught(objective),
            self._learner,
            examples=lambda seed: few(arrays, fraction, seed),
        )

    def table(self, kinds: Iterable[str]) -> report.Result:
        """Return the table, with what soft targets gain over labels alone."""
        config = self.field.config
        count = len(few(self._arrays, config.fraction, 0)["label"])
        return self.field.table(
            f"Streaming students of {_TITLES[config.dataset]}",
            ALONE,
            _COLUMNS,
            f"few: {count} recordings, {100 * config.fraction:g} % of the training "
            "split, another draw for each seed. The paper's student of 3 % is as large "
            "as its teacher, and its soft targets are of frames.",
            "frames %: of all frames, those that name the digit by what was heard so "
            "far; the teacher has heard all.",
            pairs=[*((name, ALONE) for name in kinds), (FEW_SOFT, FEW)],
        )


def _said(field: Field) -> Arrays:
    """Return what the teacher says of the training recordings and of their frames."""
    assert field.teacher is not None
    network, variables = field.teacher

    @jax.jit
    def say(variables: Variables, inputs: Any) -> Any:
        outputs, _ = network.apply(variables, inputs)
        return {
            "teacher/log_probs": jax.nn.log_softmax(outputs.logits),
            "teacher/features/frames": outputs.features["frames"],
        }

    train = field.problem.train
    return _problem.asked(train, lambda batch: say(variables, _inputs(batch)))
