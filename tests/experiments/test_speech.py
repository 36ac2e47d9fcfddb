"""Spoken digits: what is heard, who is heard when, and a run on made sounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _run, _speech, speech
from kdjax.base import Outputs
from kdjax.data import speech as recordings

SOUNDS = _speech.made(count=2)


@pytest.fixture(scope="module")
def problem():
    return _speech.of("made", SOUNDS)


def test_made_sounds_are_recordings_of_all_digits():
    assert len(SOUNDS.waves) == len(SOUNDS.label) == len(SOUNDS.speaker) == 100
    assert np.bincount(SOUNDS.label).tolist() == [10] * 10
    for name, label, speaker in zip(
        SOUNDS.waves, SOUNDS.label, SOUNDS.speaker, strict=True
    ):
        assert name.startswith(f"{label}_{speaker}_")
    assert all(wave.dtype == np.int16 for wave in SOUNDS.waves.values())
    again = _speech.made(count=2)
    assert all((again.waves[n] == wave).all() for n, wave in SOUNDS.waves.items())


def test_splits_share_no_speaker_and_padding_is_zero(problem):
    assert "train 60 recordings (a, b, c), validation 20 (d), test 20 (e)" in (
        problem.splits
    )
    for split in (problem.train, problem.validation, problem.test):
        frames, length = split["frames"], split["length"]
        assert frames.shape == (len(length), _speech.FRAMES, 24)
        behind = np.arange(_speech.FRAMES)[None] >= length[:, None]
        assert behind.any()
        assert not frames[behind].any()
        assert (length > 0).all()
    heard = problem.train["frames"]
    behind = np.arange(_speech.FRAMES)[None] >= problem.train["length"][:, None]
    np.testing.assert_allclose(heard[~behind].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(heard[~behind].std(0), 1, atol=1e-3)


def test_two_speakers_are_too_few():
    two = np.isin(SOUNDS.speaker, ["a", "b"])
    waves = {n: w for n, w in SOUNDS.waves.items() if n[2] in "ab"}
    few = recordings.Recordings(waves, SOUNDS.label[two], SOUNDS.speaker[two])
    with pytest.raises(ValueError, match=r"at least 3 speakers.*got \['a', 'b'\]"):
        _speech.of("made", few)


def test_a_recording_without_samples_is_named():
    waves = {**SOUNDS.waves, "0_a_0": np.zeros(0, np.int16)}
    broken = dataclasses.replace(SOUNDS, waves=waves)
    with pytest.raises(ValueError, match=r"recording '0_a_0' must be .* one sample"):
        _speech.of("made", broken)


LENGTH = np.array([5, 2, 3])
BATCH = {
    "frames": np.zeros((3, 5, 4), np.float32),
    "length": LENGTH,
    "label": np.array([1, 7, 0]),
}


def said(seed):
    """What a network might say, with anything behind the end of an utterance."""
    frames = np.random.default_rng(seed).normal(size=(3, 5, 10)).astype(np.float32)
    whole = [frames[row, :length].mean(0) for row, length in enumerate(LENGTH)]
    return Outputs(np.stack(whole), {"frames": frames})


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def divergence(student, teacher):
    q, p = log_softmax(student / 2), log_softmax(teacher / 2)
    return 4 * (np.exp(p) * (p - q)).sum(-1)


def test_soft_targets_count_frames_and_utterances():
    student, teacher = said(1), said(2)
    objective = jax.jit(
        lambda share: _speech.soft(2.0, 0.7, share)(student, teacher, BATCH)
    )
    by_frame = divergence(student.features["frames"], teacher.features["frames"])
    by_frame = by_frame[np.arange(5)[None] < LENGTH[:, None]].mean()
    whole = divergence(student.logits, teacher.logits).mean()
    hard = -log_softmax(student.logits)[np.arange(3), BATCH["label"]].mean()
    for share in (0.0, 0.25, 1.0):
        terms = objective(share)
        total, count = terms["frames"]
        assert float(total / count) == pytest.approx(0.7 * share * by_frame, abs=1e-6)
        expected = 0.7 * (1 - share) * whole
        assert float(terms["utterances"]) == pytest.approx(expected, abs=1e-6)
        assert float(terms["hard"]) == pytest.approx(0.3 * hard, abs=1e-6)


def test_frame_accuracy_is_that_of_all_frames():
    frames = np.zeros((3, 5, 10), np.float32)
    frames[0, :2, 1] = frames[1, :, 7] = frames[2, 3:, 0] = 1  # else 0 is named
    student = Outputs(jnp.zeros((3, 10)), {"frames": jnp.asarray(frames)})
    measured = _speech._measure(student, BATCH)
    assert measured["right_frames"].tolist() == [2, 2, 3]
    means = {name: np.mean(values, 0) for name, values in measured.items()}
    assert _speech._finished(means, 3)["frame_accuracy"] == pytest.approx(7 / 10)


def test_few_have_all_digits_alike_and_differ_by_seed(problem):
    arrays = problem.train
    found = _speech.few(arrays, 0.25, 0)
    assert {name: len(array) for name, array in found.items()} == dict.fromkeys(
        arrays, 15
    )
    counts = np.bincount(found["label"], minlength=10)
    assert set(counts.tolist()) == {1, 2}
    again, other = (_speech.few(arrays, 0.25, seed) for seed in (0, 1))
    np.testing.assert_array_equal(again["frames"], found["frames"])
    assert (other["frames"] != found["frames"]).any()
    whole = _speech.few(arrays, 1.0, 3)
    assert all((whole[name] == array).all() for name, array in arrays.items())
    assert len(_speech.few(arrays, 1e-9, 0)["label"]) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("speech")
    options = _run.Options(workdir=place, progress=False)
    return place, speech.main(dataclasses.replace(speech.SMOKE, run=options))


def test_a_small_run_compares_soft_targets(finished):
    place, result = finished
    kinds = ["frames", "utterances", "both"]
    few = ["few, alone", "few, utterances"]
    names = ["teacher", "student alone", *kinds, *few]
    assert [row.name for row in result.rows] == names
    assert [(gain.better, gain.than) for gain in result.gains] == [
        *((name, "student alone") for name in kinds),
        ("few, utterances", "few, alone"),
    ]
    teacher, *students = result.rows
    assert len({row.cost["parameters"] for row in students}) == 1
    assert students[0].cost["parameters"] < teacher.cost["parameters"] / 10
    for row in result.rows:
        assert (row.values("frame_accuracy") > 0.1).all()
        assert (row.values("accuracy") > 0.2).all()
    assert students[0].values("accuracy").mean() > 0.6
    text = (place / "report.md").read_text()
    assert "made sounds, not speech" in text
    assert "few: 18 recordings, 10 % of the training split" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--smoke", "--archive", "a.tar.gz"], "made sounds have no archive"),
        (["--archive", "a.tar.gz"], "data.speech: a.tar.gz cannot be read"),
        (["--smoke", "--fraction", "0"], "config: fraction must be > 0, got 0"),
        (["--smoke", "--fraction", "1.5"], "config: fraction must be in [0, 1]"),
        (["--smoke", "--alpha", "-1"], "config: alpha must be in [0, 1], got -1"),
        (["--smoke", "--temperature", "0"], "config: temperature must be > 0"),
        (
            ["--smoke", "--student-width", "0"],
            "config: student_width must be > 0, got 0",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(command, arguments, said):
    code, _, err = command(speech.main, speech.Config(), *arguments, smoke=speech.SMOKE)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
