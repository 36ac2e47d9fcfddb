"""Log-mel features of waveforms: frames, window, power spectrum, mel bands, logarithm.

Frames reach into the past only: frame i covers samples `i hop` to `i hop + window`, so
features can be computed while somebody is still speaking.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks


def num_frames(samples: int, *, window: int = 256, hop: int = 160) -> int:
    """Return how many frames it takes to cover this many samples.

    `1 + ceil(max(samples − window, 0) / hop)`; zeros fill the last one up.

    >>> num_frames(256), num_frames(257)
    (1, 2)
    """
    return 1 - min(window - samples, 0) // hop


def mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Return the weights of frequencies in mel bands.

    Triangles whose corners are equally spaced in mel, `m = 2595 log10(1 + f / 700)`,
    from 0 to `rate / 2`: band b rises from corner b to 1 at corner b + 1 and falls to
    0 at corner b + 2, linearly in mel.

    Args:
      rate: samples in a second.
      window: samples in a frame.
      bands: number of bands.

    Returns:
      float32 `[window // 2 + 1, bands]`, for the frequencies of a real FFT.

    Raises:
      ValueError: if a size is not positive, or a band holds no frequency: there are
        too many for the window.

    >>> mel_filters(8000, 256, 24).shape
    (129, 24)

    Stevens, Volkmann and Newman, "A scale for the measurement of the psychological
    magnitude pitch", 1937; this formula: O'Shaughnessy, "Speech communication", 1987.
    """
    checks.integer("mel_filters", 1, rate=rate, window=window, bands=bands)
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(window, 1 / rate) / 700)
    corners = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    place = mel[:, None] / corners[1] - np.arange(1, bands + 1)[None]
    weights = np.maximum(0, 1 - np.abs(place))
    if empty := np.flatnonzero(weights.sum(0) == 0).tolist():
        raise ValueError(
            f"mel_filters: bands {empty} of {bands} lie between two frequencies of a "
            f"window of {window} samples at {rate} Hz; give fewer bands or a longer "
            "window"
        )
    return weights.astype(np.float32)


def log_mel(
    wave: Any,
    *,
    rate: int = 8000,
    window: int = 256,
    hop: int = 160,
    bands: int = 24,
    floor: float = 1e-8,
) -> Array:
    """Return the log-mel features of waveforms.

    `log(floor + Σ_f M[f, b] |Σ_n w_n x[i hop + n] e^{−2πi f n / window}|² / window)`
    with the periodic Hann window `w_n = sin²(π n / window)` and M the `mel_filters`.

    Args:
      wave: `[..., samples]` floats in [−1, 1], at least one sample.
      rate: samples in a second.
      window: samples in a frame.
      hop: samples from one frame to the next.
      bands: number of mel bands.
      floor: what silence has, > 0.

    Returns:
      `[..., num_frames(samples), bands]`. Zeros behind a wave add frames and change
      none.

    Raises:
      ValueError: if there is no sample, a size is not positive, or the waves are not
        floating.

    >>> jax.eval_shape(log_mel, jnp.zeros((3, 8000))).shape
    (3, 50, 24)

    Davis and Mermelstein, "Comparison of parametric representations for monosyllabic
    word recognition", 1980: https://doi.org/10.1109/TASSP.1980.1163420
    """
    checks.floating("log_mel", wave=wave)
    checks.integer("log_mel", 1, hop=hop)
    checks.positive("log_mel", floor=floor)
    filters = mel_filters(rate, window, bands)
    samples = wave.shape[-1] if wave.ndim else 0
    if not samples:
        raise ValueError(
            "log_mel: wave must be [..., samples] with at least one sample, got "
            f"{list(wave.shape)}"
        )
    frames = num_frames(samples, window=window, hop=hop)
    missing = (frames - 1) * hop + window - samples
    padded = jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, max(missing, 0))])
    taken = np.arange(frames)[:, None] * hop + np.arange(window)[None]
    hann = np.sin(np.pi * np.arange(window, dtype=np.float32) / window) ** 2
    shape = (1,) * wave.ndim + (window,)
    spectrum = jnp.fft.rfft(padded[..., taken] * hann.reshape(shape))
    power = (jnp.square(spectrum.real) + jnp.square(spectrum.imag)) / window
    return jnp.log(jnp.dot(power, filters) + floor)


def subtract_running_mean(features: Array) -> Array:
    """Return features less their mean over the frames so far.

    `y_t = x_t − (x_1 + … + x_t) / t`, band by band: what a room, a microphone or a
    level adds to all frames is gone, and no later frame is needed for it.

    Args:
      features: `[..., frames, bands]` floats.

    Returns:
      The same shape.

    Raises:
      ValueError: if they are not floating with at least two axes.

    >>> subtract_running_mean(jnp.array([[1.0], [3.0], [8.0]])).ravel().tolist()
    [0.0, 1.0, 4.0]

    Atal, "Effectiveness of linear prediction characteristics of the speech wave for
    automatic speaker identification and verification", 1974, with a mean that grows:
    https://doi.org/10.1121/1.1914702
    """
    checks.floating("subtract_running_mean", features=features)
    if features.ndim < 2:
        raise ValueError(
            "subtract_running_mean: features must be [..., frames, bands], got "
            f"{list(features.shape)}"
        )
    counts = jnp.arange(1, features.shape[-2] + 1, dtype=features.dtype)
    shape = (1,) * (features.ndim - 2) + (-1, 1)
    return features - jnp.cumsum(features, axis=-2) / counts.reshape(shape)


@functools.partial(jax.jit, static_argnames=("frames", "settings"))
def _batch(waves: Array, counts: Array, frames: int, settings: Any) -> Array:
    features = log_mel(waves, **dict(settings))
    kept = jnp.arange(frames)[None] < counts[:, None]
    return jnp.where(kept[..., None], features, 0.0)


def utterances(
    recordings: Mapping[str, np.ndarray], frames: int, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of recordings of different lengths, padded to one.

    Args:
      recordings: by name, int16 samples `[samples]` each.
      frames: kept of each, from its start; shorter ones are padded with zeros.
      **settings: of `log_mel`.

    Returns:
      float32 features `[recordings, frames, bands]` and int32 lengths `[recordings]`,
      in the order of the recordings.

    Raises:
      ValueError: if there is no recording, or one has no samples, or others than
        int16 in one dimension; it says which.

    >>> features, lengths = utterances({"yes": np.ones(900, np.int16)}, frames=8)
    >>> features.shape, lengths.tolist()
    ((1, 8, 24), [6])
    """
    checks.integer("utterances", 1, frames=frames)
    if not recordings:
        raise ValueError("utterances: needs at least one recording, got none")
    for name, wave in recordings.items():
        if wave.dtype != np.int16 or wave.ndim != 1 or not wave.size:
            raise ValueError(
                f"utterances: recording {name!r} must be int16 [samples] with at least "
                f"one sample, got {wave.dtype}{list(wave.shape)}"
            )
    window, hop = settings.get("window", 256), settings.get("hop", 160)
    waves = np.zeros((len(recordings), (frames - 1) * hop + window), np.float32)
    lengths = np.zeros(len(recordings), np.int32)
    for row, wave in enumerate(recordings.values()):
        kept = wave[: waves.shape[1]]
        waves[row, : len(kept)] = kept / 32768
        lengths[row] = num_frames(len(kept), window=window, hop=hop)
    fixed = tuple(sorted(settings.items()))
    parts = [
        np.asarray(_batch(waves[at : at + 64], lengths[at : at + 64], frames, fixed))
        for at in range(0, len(waves), 64)
    ]
    return np.concatenate(parts), lengths
