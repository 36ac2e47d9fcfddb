"""Recordings: read from an archive, prepared, downloaded, cached, and refused."""

import functools
import hashlib
import http.server
import io
import sys
import tarfile
import threading
import wave
from pathlib import Path

import numpy as np
import pytest

from kdjax import data
from kdjax.data import speech

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from tensorflow_datasets.core.download import checksums

from kdjax.data._spoken_digit import SpokenDigitWaves

SHARED = Path(__file__).parents[3] / "shared" / "raw" / "spoken_digit"
NAMES = ["0_ann_0", "0_ann_1", "7_bob_smith_12", "9_bob_smith_2"]


def samples(name):
    rng = np.random.default_rng(len(name) + int(name[0]))
    return rng.integers(-(2**15), 2**15, 200 + 10 * int(name[0])).astype(np.int16)


def wav(content, rate=8000, channels=1, width=2):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(content)
    return file.getvalue()


def pack(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"set-1/recordings/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    wavs = {f"{name}.wav": wav(samples(name).tobytes()) for name in reversed(NAMES)}
    place = tmp_path_factory.mktemp("archive") / "a.tar.gz"
    return pack(place, {"README.md": b"digits", **wavs})


@pytest.fixture
def load(tmp_path):
    return functools.partial(
        speech.load, data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache"
    )


@pytest.fixture
def official(archive, monkeypatch):
    """Make a small archive the official one, `official(URL)` from somewhere."""

    def make(url, digest=None):
        digest = digest or hashlib.sha256(archive.read_bytes()).hexdigest()
        info = checksums.UrlInfo(archive.stat().st_size, digest, "a.tar.gz")
        monkeypatch.setattr(speech, "URL", url)
        monkeypatch.setattr(speech, "SHA256", digest)
        monkeypatch.setattr(SpokenDigitWaves, "url_infos", {url: info})

    return make


@pytest.fixture
def served(archive):
    """Serve the archive by HTTP on this machine: its URL."""
    handler = functools.partial(Quiet, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/a.tar.gz"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def check(found):
    assert list(found.waves) == NAMES
    for name, heard in found.waves.items():
        assert heard.dtype == np.int16
        np.testing.assert_array_equal(heard, samples(name))
    assert (found.label.dtype, found.label.tolist()) == (np.int32, [0, 0, 7, 9])
    assert found.speaker.tolist() == ["ann", "ann", "bob_smith", "bob_smith"]


def test_an_archive_is_prepared_read_and_cached(load, archive, tmp_path, monkeypatch):
    check(load(archive=archive))
    [prepared] = (tmp_path / "sets" / "spoken_digit_waves").glob("*/1.0.0")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert prepared.parent.name == digest[:16]
    with monkeypatch.context() as patch:  # the arrays are there, the set is not read
        patch.setattr(speech, "_decoded", None)
        check(load(archive=archive))
    with monkeypatch.context() as patch:  # the set is there, the archive is not read
        patch.setattr(speech, "read", None)
        check(load(archive=archive, cache_dir=tmp_path / "new"))


def test_a_damaged_set_is_named(load, archive, tmp_path):
    load(archive=archive)
    [records] = (tmp_path / "sets").glob("*/*/*/*array_record*")
    records.write_bytes(records.read_bytes()[:1000])
    with pytest.raises(data.Unavailable, match="cannot be read from") as caught:
        load(archive=archive, cache_dir=tmp_path / "new")
    assert str(records.parent) in str(caught.value)


def test_the_official_archive_is_downloaded_once(load, official, served, tmp_path):
    official(served)
    check(load())
    official("http://127.0.0.1:9/archive.tar.gz")
    check(load(cache_dir=tmp_path / "new"))


def test_a_download_of_another_content_is_refused(load, official, served):
    official(served, digest="0" * 64)
    with pytest.raises(data.Unavailable, match="NonMatchingChecksumError"):
        load()


def test_without_network_it_says_what_to_do(load, official, tmp_path, capfd):
    official("http://127.0.0.1:9/archive.tar.gz")
    with pytest.raises(data.Unavailable) as caught:
        load()
    message = str(caught.value)
    assert f"not prepared in {tmp_path / 'sets'}" in message
    assert "ConnectionError" in message.splitlines()[1]
    assert "http://127.0.0.1:9/archive.tar.gz\n" in message
    assert "--archive FILE" in message
    assert not (tmp_path / "sets").exists()
    assert capfd.readouterr().out == ""


SOUND = samples("0_ann_0").tobytes()


WRONG = [
    ("7_ann_3.wav", wav(SOUND, rate=16_000), "got 16000 Hz, 1 channels and 16 bits"),
    ("7_ann_3.wav", wav(SOUND, channels=2), "got 8000 Hz, 2 channels and 16 bits"),
    ("7_ann_3.wav", wav(SOUND, width=1), "got 8000 Hz, 1 channels and 8 bits"),
    ("7_ann_3.wav", wav(b""), "has no samples"),
    ("7_ann_3.wav", wav(SOUND)[:-50], "ends after 175 of 200 samples"),
    ("7_ann_3.wav", wav(SOUND)[:30], "is no wav: "),
    ("7_ann_3.wav", b"", "is no wav: it ends too early"),
    ("7_ann_3.wav", b"no wav at all, but some text", "is no wav: "),
    ("seven.wav", wav(SOUND), "must be called DIGIT_SPEAKER_INDEX.wav"),
    ("17_ann_3.wav", wav(SOUND), "must be called DIGIT_SPEAKER_INDEX.wav"),
]


@pytest.mark.parametrize(("name", "content", "match"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_recording_is_named(load, tmp_path, name, content, match):
    files = {"0_ann_0.wav": wav(SOUND), name: content}
    path = pack(tmp_path / "wrong.tar.gz", files)
    with pytest.raises(data.Unavailable, match=f"recording '{name}' .*{match}"):
        load(archive=path)
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "none", "folder", "bits"])
def test_a_damaged_archive_is_named(load, archive, tmp_path, damage):
    path, content = tmp_path / "damaged.tar.gz", bytearray(archive.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "empty":
        pack(path, {"README.md": b"nothing to hear"})
    elif damage == "folder":
        path.mkdir()
    elif damage == "bits":
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    with pytest.raises(data.Unavailable, match=r"data.speech: .*damaged\.tar\.gz"):
        load(archive=path)


def test_a_missing_package_names_the_extra(load, archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[data\]'"):
        load(archive=archive)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no archive beside the repository")
def test_the_real_archive(load):
    [path] = SHARED.glob("*.tar.gz")
    [info] = SpokenDigitWaves.url_infos.values()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == info.checksum
    assert path.stat().st_size == info.size
    found = load(archive=path)
    assert np.bincount(found.label).tolist() == [250] * 10
    speakers, counts = np.unique(found.speaker, return_counts=True)
    assert speakers.tolist() == ["george", "jackson", "nicolas", "theo", "yweweler"]
    assert counts.tolist() == [500] * 5
    assert found.waves["0_george_0"][:5].tolist() == [-1489, -962, -606, 163, 1033]
