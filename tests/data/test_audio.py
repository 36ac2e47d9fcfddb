"""Log-mel features against a plain NumPy reference, and what they do at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import audio

SETTINGS = {"rate": 8000, "window": 64, "hop": 24, "bands": 5, "floor": 1e-6}


def noise(*shape):
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def hertz(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def filters(rate, window, bands):
    """Triangles between corners in Hz, one frequency at a time."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    step, found = top / (bands + 1), np.zeros((window // 2 + 1, bands))
    for k in range(window // 2 + 1):
        mel = 2595 * np.log10(1 + k * rate / window / 700)
        for band in range(bands):
            low, middle, high = step * band, step * (band + 1), step * (band + 2)
            if low < mel <= middle:
                found[k, band] = (mel - low) / (middle - low)
            elif middle < mel < high:
                found[k, band] = (high - mel) / (high - middle)
    return found


def reference(x, *, rate, window, hop, bands, floor):
    """The features of one wave, with a Fourier sum, in float64."""
    frames, n = [], np.arange(window)
    for start in range(0, max(len(x) - window, 0) + hop, hop):
        frame = np.zeros(window)
        frame[: len(x[start : start + window])] = x[start : start + window]
        frame *= 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
        power = [
            abs((frame * np.exp(-2j * np.pi * k * n / window)).sum()) ** 2 / window
            for k in range(window // 2 + 1)
        ]
        mel = np.array(power) @ filters(rate, window, bands)
        frames.append(np.log(mel + floor))
        if start + window >= len(x):
            break
    return np.stack(frames)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 88, 89, 300])
def test_features_equal_a_numpy_reference(samples):
    wave = noise(samples)
    found = audio.log_mel(wave, **SETTINGS)
    assert found.dtype == jnp.float32
    assert len(found) == audio.num_frames(samples, window=64, hop=24)
    expected = reference(wave, **SETTINGS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("sizes", [(8000, 256, 24), (16000, 400, 40), (8000, 63, 4)])
def test_filters_equal_a_numpy_reference(sizes):
    np.testing.assert_allclose(audio.mel_filters(*sizes), filters(*sizes), atol=1e-6)


def test_a_tone_is_loudest_in_its_band():
    bands = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 26)[1:-1]
    for band in (3, 10, 20):
        tone = np.sin(2 * np.pi * hertz(bands[band]) * np.arange(2048) / 8000)
        features = audio.log_mel(jnp.asarray(tone))
        assert (features[:-1].argmax(-1) == band).all()


def test_gain_moves_all_bands_alike():
    wave = noise(700)
    loud, soft = (audio.log_mel(gain * wave, floor=1e-30) for gain in (1.0, 0.1))
    np.testing.assert_allclose(loud - soft, np.log(100), atol=1e-3)
    silence = audio.log_mel(jnp.zeros(700), floor=1e-7)
    np.testing.assert_allclose(silence, np.log(1e-7), rtol=1e-6)


def test_zeros_behind_a_wave_add_frames_and_change_none():
    wave = noise(400)
    alone = audio.log_mel(wave)
    longer = audio.log_mel(np.pad(wave, (0, 600)))
    assert len(longer) > len(alone)
    np.testing.assert_allclose(longer[: len(alone)], alone, atol=1e-4)


def test_a_frame_reads_nothing_behind_its_window():
    wave, changed = noise(1000), noise(1000)
    changed[500:] = 0
    before, after = audio.log_mel(wave), audio.log_mel(changed)
    whole = (500 - 256) // 160 + 1
    np.testing.assert_array_equal(before[:whole], after[:whole])
    assert not np.isclose(before[whole:], after[whole:]).all()


def test_vmap_jit_and_gradient():
    waves = noise(2, 3, 300)
    found = jax.jit(audio.log_mel)(waves)
    assert found.shape == (2, 3, 2, 24)
    mapped = jax.vmap(jax.vmap(audio.log_mel))(waves)
    np.testing.assert_allclose(mapped, found, atol=1e-4)
    for wave in (waves[0, 0], np.zeros(300, np.float32)):
        gradient = jax.grad(lambda x: audio.log_mel(x).sum())(wave)
        assert np.isfinite(gradient).all()


def test_recordings_of_different_lengths_are_padded():
    lengths = {"a": 100, "b": 700, "c": 5000}
    waves = {n: (9000 * noise(size)).astype(np.int16) for n, size in lengths.items()}
    features, counts = audio.utterances(waves, 8, bands=10)
    assert (features.dtype, features.shape) == (np.float32, (3, 8, 10))
    assert (counts.dtype, counts.tolist()) == (np.int32, [1, 4, 8])
    for row, wave in enumerate(waves.values()):
        alone = audio.log_mel(wave.astype(np.float32) / 32768, bands=10)[:8]
        found = features[row, : counts[row]]
        np.testing.assert_allclose(found, alone[: counts[row]], atol=1e-4)
        assert not features[row, counts[row] :].any()
    many = {str(i): waves["b"] for i in range(70)}  # more than one block
    features, counts = audio.utterances(many, 8)
    assert len(features) == len(counts) == 70
    np.testing.assert_allclose(features, features[:1].repeat(70, 0), atol=1e-4)


@pytest.mark.parametrize(
    ("wave", "found"),
    [
        (np.zeros(0, np.int16), r"int16\[0\]"),
        (np.zeros((5, 2), np.int16), r"int16\[5, 2\]"),
        (np.zeros(5, np.float32), r"float32\[5\]"),
    ],
)
def test_a_wrong_recording_is_named(wave, found):
    waves = {"fine": np.ones(9, np.int16), "7_ann_3": wave}
    with pytest.raises(ValueError, match=f"recording '7_ann_3' must be .*{found}"):
        audio.utterances(waves, 8)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: audio.utterances({}, 8), "at least one recording"),
        (lambda: audio.utterances({"a": noise(4)}, 0), "frames must be an integer"),
        (lambda: audio.log_mel(noise(0)), r"at least one sample, got \[0\]"),
        (lambda: audio.log_mel(np.float32(1)), r"at least one sample, got \[\]"),
        (lambda: audio.log_mel(np.ones(9, int)), "wave must be floating"),
        (lambda: audio.log_mel(noise(9), hop=0), "hop must be an integer >= 1"),
        (lambda: audio.log_mel(noise(9), floor=0.0), "floor must be > 0"),
        (
            lambda: audio.log_mel(noise(9), bands=120),
            r"bands \[.*\] of 120 lie between",
        ),
        (lambda: audio.mel_filters(8000, 0, 5), "window must be an integer >= 1"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
