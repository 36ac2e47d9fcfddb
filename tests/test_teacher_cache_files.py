"""The teacher cache on disk: interrupted, damaged, edited, full."""

import json
from functools import partial
from pathlib import Path

import pytest

from kdjax import teachers
from kdjax.teachers import cache
from kdjax.teachers.cache import _files
from tests.cached import (
    LOG_PROBS,
    TEACHER,
    files,
    write,
)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    write(directory)
    return directory


@pytest.fixture
def copy(complete, tmp_path):
    for name, content in files(complete).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("place", ["between shards", "in a shard"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    complete, tmp_path, monkeypatch, place
):
    class Killed(BaseException):
        pass

    def die(_, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] == 2:
            raise Killed

    put = _files.Store.put

    def put_half(store, number, values):
        if number < 2:
            return put(store, number, values)
        with open(store.path(LOG_PROBS), "r+b") as file:
            file.seek(-100, 2)
            file.write(b"half a shard")
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        if place == "in a shard":
            patched.setattr(_files.Store, "put", put_half)
            write(tmp_path)
        write(tmp_path, say=die)
    with pytest.raises(RuntimeError, match="is unfinished: 2 of 5 shards are written"):
        cache.read(tmp_path)
    told = []
    write(tmp_path, say=told.append)
    assert told == [f"cache.write: {rows} of 30 rows" for rows in (21, 28, 30)]
    assert files(tmp_path) == files(complete)


def test_a_complete_cache_is_not_touched(complete):
    def times():
        return {p: p.stat().st_mtime_ns for p in complete.rglob("*.*") if p.suffix}

    before, told = times(), []
    assert len(before) == 4
    write(complete, say=told.append, batch_size=8)
    assert told == []
    assert times() == before


def test_settings_that_differ_are_refused(copy):
    with pytest.raises(
        ValueError, match=r"holds another cache:\n  dtype: saved float32"
    ):
        write(copy, dtype="float16")
    with pytest.raises(ValueError, match="shard_rows: saved 7, given 8"):
        write(copy, shard_rows=8)


def edit(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "edited": (edit, "rows 28 to 29 were changed", [30]),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "is damaged", [30]),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"0"), "bytes and not", []),
    "missing": (Path.unlink, "it is missing", [7, 14, 21, 28, 30]),
    "no header": (partial(edit, position=0), "is damaged", []),
    "other shape": (partial(edit, position=61), "it holds float32", []),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_found_and_only_that_is_made_anew(complete, copy, how):
    damage, message, computed = DAMAGE[how]
    path = copy / f"{LOG_PROBS}.npy"
    damage(path)
    with pytest.raises(cache.Damaged, match=message) as error:
        cache.read(copy)
    assert str(path) in str(error.value)
    assert "Call cache.write" in str(error.value)
    told = []
    write(copy, say=told.append)
    done = [line for line in told if line.endswith("of 30 rows")]
    assert done == [f"cache.write: {rows} of 30 rows" for rows in computed]
    assert files(copy) == files(complete)


@pytest.mark.parametrize("break_", [edit, partial(edit, position=40), Path.touch])
def test_an_edited_manifest_is_noticed(copy, break_):
    manifest = copy / "cache.json"
    if break_ is Path.touch:  # another value, and still JSON
        content = json.loads(manifest.read_text())
        content["about"]["version"] = 2
        manifest.write_text(json.dumps(content))
    else:
        manifest.write_text(manifest.read_text()[:-50])
    for use in (cache.read, write):
        with pytest.raises(cache.Damaged, match=r"cache.json cannot be believed"):
            use(copy)


def test_two_writers_are_refused(copy):
    with (
        _files.alone(copy),
        pytest.raises(RuntimeError, match="another process is writing"),
    ):
        write(copy)


def test_no_cache_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no cache.json in"):
        cache.read(tmp_path)


def test_a_full_disk_says_so_and_costs_nothing(complete, small_disk):
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - 5 * 4096)
    with pytest.raises(OSError, match="Make room and write again: finished shards"):
        write(small_disk)
    filler.unlink()
    write(small_disk)
    assert files(small_disk) == files(complete)


def test_another_network_with_the_same_variables_is_refused(tmp_path):
    """The fingerprint is of the variables; what they mean is asked again."""
    write(tmp_path)
    before = files(tmp_path)
    other = teachers.viewed(TEACHER, lambda images: -3 * images)
    with pytest.raises(ValueError, match="what another network with these variables"):
        write(tmp_path, network=other)
    write(tmp_path)
    assert files(tmp_path) == before


def test_names_of_features_are_several(tmp_path):
    with pytest.raises(ValueError, match="features must be several names, got 'seen'"):
        write(tmp_path, features="seen")
