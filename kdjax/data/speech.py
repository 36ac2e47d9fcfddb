"""Spoken digits as waveforms of known speakers."""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import tarfile
import wave
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kdjax.data import _builders, _cache, _prepare
from kdjax.data.task import Unavailable, missing

RATE = 8000
"""Samples in a second."""
URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"
SHA256 = "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0"

_NAME = re.compile(r"(\d)_(.+)_\d+")
_Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings:
    """Digits that somebody said.

    Attributes:
      waves: samples of each recording by its name, int16 `[samples]`.
      label: the digit that was said, int32 `[recordings]`.
      speaker: who said it, `[recordings]` texts.
    """

    waves: dict[str, np.ndarray]
    label: np.ndarray
    speaker: np.ndarray


def load(
    *,
    archive: _Path | None = None,
    data_dir: _Path | None = None,
    cache_dir: _Path | None = None,
) -> Recordings:
    """Load the Free Spoken Digit data set, or an archive that is laid out like it.

    Version 1.0.9 holds 2,500 recordings (CC BY-SA 4.0): five speakers said each digit
    50 times. They are those of the TFDS set `spoken_digit`, stored so that they can be
    read without TensorFlow. What is not yet prepared in `data_dir` is prepared there.

    Args:
      archive: of recordings, as for `read`; by default version 1.0.9, which is
        downloaded once.
      data_dir: TFDS's folder of prepared sets, as for `data.load`.
      cache_dir: where the arrays are kept for the next time, as for `data.load`.

    Returns:
      The recordings in the order of their names.

    Raises:
      Unavailable: if the set is not prepared and cannot be downloaded, or if it is
        damaged; as `read` does for an archive.
      ImportError: if the packages of `pip install 'kdjax[data]'` are missing.

    Source: Jackson et al., "Free Spoken Digit Dataset" (2016),
    https://github.com/Jakobovski/free-spoken-digit-dataset

    >>> load(archive="none.tar.gz")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdjax.data.task.Unavailable: data.speech: none.tar.gz cannot be read: ...
    """
    given = Path(archive) if archive else None
    # Another archive makes another set, beside the official one.
    digest = (hashlib.sha256(_bytes(given)).hexdigest() if given else SHA256)[:16]
    place = Path(cache_dir or _cache.default_dir()) / f"spoken-digits-{digest}.npz"
    root = _builders.root(data_dir)
    arrays = _cache.cached(place, lambda: _decoded(root, digest, given))
    waves = np.split(arrays["audio"], np.cumsum(arrays["samples"])[:-1])
    names = map(str, arrays["name"])
    return Recordings(
        dict(zip(names, waves, strict=True)), arrays["label"], arrays["speaker"]
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(
            f"data.speech: {path} cannot be read: {why}; version 1.0.9 is at\n  {URL}"
        ) from error


def _decoded(root: Path, digest: str, archive: Path | None) -> _cache.Arrays:
    """Return the fields of all recordings; their samples lie one behind the other."""
    with _prepare.quiet():
        builder = _builder(root, digest, archive)
        try:
            source = builder.as_data_source(split="train")
            examples = source.__getitems__(range(len(source)))
        except Exception as error:
            raise Unavailable(
                f"data.speech: recordings cannot be read from {builder.data_dir}:\n"
                f"  {_builders.one_line(error)}\n"
                "Remove that folder, and they are prepared again."
            ) from error
    examples.sort(key=lambda example: example["name"])
    waves = [example["audio"] for example in examples]
    return {
        "name": np.array([example["name"].decode() for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
        "speaker": np.array([example["speaker"].decode() for example in examples]),
        "samples": np.array([len(wave) for wave in waves]),
        "audio": np.concatenate(waves),
    }


def _builder(root: Path, digest: str, archive: Path | None) -> Any:
    """Return a builder whose files are there, preparing them if need be."""
    try:
        import tensorflow_datasets as tfds

        from kdjax.data._spoken_digit import SpokenDigitWaves
    except ImportError as error:
        raise missing("tensorflow-datasets") from error
    config = tfds.core.BuilderConfig(name=digest, version="1.0.0")
    try:
        builder = SpokenDigitWaves(data_dir=root, config=config)
        builder.archive = archive
        if not Path(builder.data_dir).exists():
            _prepare.prepare(builder)
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(
            f"data.speech: spoken digits are not prepared in {root}, and preparing "
            f"them failed:\n  {_builders.one_line(error)}\n"
            "Download the archive where there is a network (12 MB, CC BY-SA 4.0):\n"
            f"  {URL}\n"
            "and give it, with --archive FILE or data.speech.load(archive='FILE')."
        ) from error
    return builder


def read(path: _Path) -> Recordings:
    """Return the recordings of an archive: .wav files in any folder of a .tar.gz.

    Args:
      path: of the archive.

    Returns:
      The recordings in the order of their names.

    Raises:
      Unavailable: if the archive cannot be read, is damaged or holds no recordings, or
        if one is none that `read_wav` can read; it says which.
    """
    # Decompressed as a whole, so that its checksum is compared.
    content, waves = _bytes(Path(path)), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            for member in archive:
                place, file = PurePosixPath(member.name), archive.extractfile(member)
                if place.suffix == ".wav" and file:
                    waves[place.name] = read_wav(place.name, file.read())
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        why = _builders.one_line(error)
        raise Unavailable(
            f"data.speech: {path} is damaged, or no .tar.gz ({why}); version 1.0.9 is "
            f"at\n  {URL}"
        ) from error
    if not waves:
        raise Unavailable(f"data.speech: {path} holds no recordings (.wav)")
    names = sorted(name.removesuffix(".wav") for name in waves)
    label, speaker = zip(*map(_said, names), strict=True)
    return Recordings(
        {name: waves[f"{name}.wav"] for name in names},
        np.array(label, np.int32),
        np.array(speaker),
    )


def read_wav(name: str, content: bytes) -> np.ndarray:
    """Return the samples of a recording.

    Args:
      name: of the file, `DIGIT_SPEAKER_INDEX.wav`.
      content: of the file: PCM of 8 kHz, one channel, 16 bits, at least one sample.

    Returns:
      int16 `[samples]`.

    Raises:
      Unavailable: if name or content are not as above; it names the recording.

    >>> read_wav("7_ann_3.wav", b"")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdjax.data.task.Unavailable: data.speech: recording '7_ann_3.wav' is no wav: it ...
    """
    if not _said(name.removesuffix(".wav")):
        raise _wrong(name, "must be called DIGIT_SPEAKER_INDEX.wav, as 7_ann_3.wav")
    try:
        with wave.open(io.BytesIO(content)) as file:
            form, count = file.getparams(), file.getnframes()
            samples = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise _wrong(name, f"is no wav: {str(error) or 'it ends too early'}") from error
    if (form.framerate, form.nchannels, form.sampwidth) != (RATE, 1, 2):
        raise _wrong(
            name,
            f"must have {RATE} Hz, 1 channel and 16 bits, got {form.framerate} Hz, "
            f"{form.nchannels} channels and {8 * form.sampwidth} bits",
        )
    if not count:
        raise _wrong(name, "has no samples")
    if len(samples) != 2 * count:
        raise _wrong(name, f"ends after {len(samples) // 2:,} of {count:,} samples")
    return np.frombuffer(samples, "<i2").astype(np.int16)


def _said(name: str) -> tuple[str, ...]:
    """Return the digit and who said it, or nothing for what is no such name."""
    found = _NAME.fullmatch(name)
    return found.groups() if found else ()


def _wrong(name: str, why: str) -> Unavailable:
    return Unavailable(f"data.speech: recording {name!r} {why}")
