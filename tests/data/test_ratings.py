"""Ratings as files and as sets of TFDS, and the sequences that are made of them."""

import collections
import functools
import hashlib
import http.server
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from kdjax import data
from kdjax.data import _sequences, ratings

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from tensorflow_datasets.core.download import checksums  # noqa: E402

from kdjax.data import _movietweetings  # noqa: E402

SNAPSHOT = (
    Path(__file__).parents[3] / "shared/raw/movietweetings/snapshots/100K/ratings.dat"
)
shared = pytest.mark.skipif(
    not SNAPSHOT.is_file(), reason="no ratings.dat of MovieTweetings beside us"
)

LINES = ["5::30::4.5::20", "", "6::30::1::10", "5::0031::2::10"]


class KdjaxRatings(tfds.core.GeneratorBasedBuilder):
    """Named as MovieLens is: users and items are text."""

    VERSION = tfds.core.Version("1.0.0")
    features: ClassVar = ratings.FEATURES

    def _info(self):
        kinds = (np.str_, np.str_, np.float32, np.int64)
        features = dict(zip(self.features.values(), kinds, strict=True))
        features = tfds.features.FeaturesDict({**features, "movie_title": np.str_})
        return tfds.core.DatasetInfo(builder=self, description="t", features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row in range(12):
            values = f"user {row // 4}", str(10 + row % 4), row / 2, 100 - row
            named = dict(zip(self.features.values(), values, strict=True))
            yield row, {**named, "movie_title": "t"}


class KdjaxUnrated(KdjaxRatings):
    """Another kind of set."""

    features: ClassVar = dict(ratings.FEATURES, rating="stars")


def written(folder, text):
    path = folder / "ratings.dat"
    path.write_text(text)
    return path


def random_ratings(users=30, items=20, count=400, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(users, size=count) * 7,
        "item": rng.zipf(1.5, count) % items + 100,
        "rating": rng.integers(1, 6, count).astype(np.float32),
        "time": rng.integers(200, size=count),
    }


def reference(rated, core, least):
    """Return each user's items in the order of time, in plain Python."""
    rows = zip(*(rated[name].tolist() for name in rated), strict=True)
    rows = sorted((u, t, i) for u, i, r, t in rows if least is None or r >= least)
    pairs = list(dict.fromkeys((u, i) for u, _, i in rows))
    while True:
        by_user = collections.Counter(u for u, _ in pairs)
        left = [(u, i) for u, i in pairs if by_user[u] >= core]
        by_item = collections.Counter(i for _, i in left)
        left = [(u, i) for u, i in left if by_item[i] >= core]
        if left == pairs:
            break
        pairs = left
    number = {item: n for n, item in enumerate(sorted({i for _, i in pairs}))}
    users = collections.defaultdict(list)
    for user, item in pairs:
        users[user].append(number[item])
    return list(users.values())


def expected(sequence, place, length):
    """Return the history before a place, and what stands there."""
    before = [item + 1 for item in sequence[:place]][-length:]
    return [0] * (length - len(before)) + before, sequence[place]


def test_a_file_is_read_line_by_line(tmp_path):
    read = ratings.read(written(tmp_path, "\n".join(LINES)))
    assert {name: x.tolist() for name, x in read.items()} == {
        "user": [5, 6, 5],
        "item": [30, 30, 31],
        "rating": [4.5, 1, 2],
        "time": [20, 10, 10],
    }
    kinds = [x.dtype for x in read.values()]
    assert kinds == [np.int64, np.int64, np.float32, np.int64]


@pytest.mark.parametrize(
    "line",
    [
        "1::2::3",
        "1::2::3::4::5",
        "1,2,3,4",
        "a::2::3::4",
        "1::2::x::4",
        "1::2::3::4.5",
        "1::2::nan::4",
        f"{2**70}::2::3::4",
        "\x00\x01",
    ],
)
def test_a_line_that_is_no_rating_is_named(tmp_path, line):
    path = written(tmp_path, "\n".join([*LINES, line]))
    with pytest.raises(ValueError, match="user::item::rating::time") as caught:
        ratings.read(path)
    assert f"{path}, line 5: must be" in str(caught.value)
    assert repr(line[:80]) in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_says_what_is_missing(tmp_path, text):
    with pytest.raises(ValueError, match="is empty; it must hold lines user::item"):
        ratings.read(written(tmp_path, text))


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(data.Unavailable, match=r"nobody\.dat cannot be read: No such"):
        ratings.read(tmp_path / "nobody.dat")
    with pytest.raises(data.Unavailable, match="Is a directory"):
        ratings.read(tmp_path)


@pytest.mark.parametrize("least", [None, 3.0])
@pytest.mark.parametrize("length", [1, 4, 50])
def test_sequences_equal_plain_python(length, least):
    rated = random_ratings()
    split = ratings.leave_one_out(rated, length=length, core=4, least=least)
    sequences = reference(rated, 4, least)
    assert split.users == len(sequences) > 5
    assert split.items == len({i for s in sequences for i in s})
    rows = []
    for user, sequence in enumerate(sequences):
        last = len(sequence) - 1
        rows += [(user, *expected(sequence, p, length)) for p in range(last - 1)]
        for held_out, place in ((split.validation, last - 1), (split.test, last)):
            history, item = expected(sequence, place, length)
            assert held_out["user"][user] == user
            assert held_out["history"][user].tolist() == history
            assert held_out["item"][user] == item
            seen = held_out["seen"][user]
            assert sorted(seen[seen > 0] - 1) == sorted(sequence[:place])
            assert item not in sequence[:place]
    train = zip(*(split.train[k].tolist() for k in split.train), strict=True)
    assert list(train) == rows
    for arrays in (split.train, split.validation, split.test):
        assert {x.dtype for x in arrays.values()} == {np.dtype(np.int32)}
    assert f"train ({len(rows)})" in split.splits
    assert ("at least 3" in split.splits) == (least is not None)


def test_order_of_the_rows_does_not_matter():
    rated = random_ratings()
    order = np.random.default_rng(1).permutation(len(rated["user"]))
    shuffled = {name: x[order] for name, x in rated.items()}
    one, other = (ratings.leave_one_out(x, core=4) for x in (rated, shuffled))
    for name in ("train", "validation", "test"):
        for key, array in getattr(one, name).items():
            np.testing.assert_array_equal(array, getattr(other, name)[key])


def test_no_user_left_says_what_was_given():
    rated = random_ratings(users=30, count=60)
    with pytest.raises(ValueError, match=r"no user is left of \d+ with 60 ratings, 60"):
        ratings.leave_one_out(rated)
    with pytest.raises(ValueError, match=r"0 of which count \(least = 9\.0\)"):
        ratings.leave_one_out(random_ratings(), least=9.0)


def test_numbers_that_cannot_be_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="core must be an integer >= 3, got 2"):
        ratings.leave_one_out(random_ratings(), core=2)
    with pytest.raises(ValueError, match="length must be an integer >= 1, got 0"):
        ratings.leave_one_out(random_ratings(), length=0)
    monkeypatch.setattr(_sequences, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="a smaller length or a larger core"):
        ratings.leave_one_out(random_ratings(), core=4)


def test_a_set_of_tfds_is_prepared_read_and_cached(tmp_path, monkeypatch):
    folders = {"data_dir": tmp_path / "tfds", "cache_dir": tmp_path / "cache"}
    read = ratings.load("kdjax_ratings", **folders)
    order = np.argsort(read["rating"])
    assert read["user"][order].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert read["item"][order].tolist() == [10, 11, 12, 13] * 3  # numbers stay
    assert read["rating"][order].tolist() == [row / 2 for row in range(12)]
    assert read["time"][order].tolist() == [100 - row for row in range(12)]
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("kdjax_ratings-1.0.0-ratings-")
    monkeypatch.setattr(ratings, "_decode", None)
    again = ratings.load("kdjax_ratings", **folders)
    for name, array in read.items():
        np.testing.assert_array_equal(array, again[name])


def test_sets_that_cannot_be_had_say_what_to_do(tmp_path, monkeypatch):
    def load(name):
        return ratings.load(name, data_dir=tmp_path / "none", cache_dir=tmp_path)

    with pytest.raises(data.Unavailable, match=r"lacks the features user_rating, and"):
        load("kdjax_unrated")
    with pytest.raises(
        data.Unavailable, match=r"no data set 'movietweet'.*Did you mean"
    ):
        load("movietweet")
    dead = "http://127.0.0.1:9/ratings.dat"
    monkeypatch.setattr(_movietweetings, "URL", dead)
    with pytest.raises(data.Unavailable, match=r"--ratings ratings\.dat") as caught:
        load("movietweetings")
    message = str(caught.value)
    assert "data.ratings.load: 'movietweetings' is not prepared in" in message
    assert "ConnectionError" in message.splitlines()[1]
    assert f"(MIT licence):\n  {dead}\n" in message
    assert not (tmp_path / "none").exists()


def test_movielens_is_known_by_name():
    ratings._register()
    builder = tfds.builder_cls("movielens")
    assert "100k-ratings" in builder.builder_configs


@pytest.fixture
def served(tmp_path):
    """Serve a folder on a port of this machine: a file in it, and its URL."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said):
            """Say nothing."""

    handler = functools.partial(Silent, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = written(tmp_path, "1::2::3::4\n")
        yield file, f"http://127.0.0.1:{server.server_port}/ratings.dat"
        server.shutdown()


@pytest.mark.parametrize("right", [True, False])
def test_what_is_downloaded_is_the_known_file(served, tmp_path, monkeypatch, right):
    file, url = served
    told = hashlib.sha256(file.read_bytes()).hexdigest() if right else "0" * 64
    infos = {url: checksums.UrlInfo(file.stat().st_size, told, "ratings.dat")}
    monkeypatch.setattr(_movietweetings, "URL", url)
    monkeypatch.setattr(_movietweetings.Movietweetings, "url_infos", infos)
    folders = {"data_dir": tmp_path / "tfds", "cache_dir": tmp_path / "cache"}
    if right:
        assert ratings.load("movietweetings", **folders)["item"].tolist() == [2]
        return
    with pytest.raises(data.Unavailable, match="NonMatchingChecksumError"):
        ratings.load("movietweetings", **folders)


@shared
def test_the_snapshot_is_the_one_that_is_meant():
    assert hashlib.sha256(SNAPSHOT.read_bytes()).hexdigest() == _movietweetings.SHA256
    info = _movietweetings.Movietweetings.url_infos[_movietweetings.URL]
    assert info.size == SNAPSHOT.stat().st_size
    split = ratings.leave_one_out(ratings.read(SNAPSHOT))
    assert (split.users, split.items) == (4333, 2414)
    assert len(split.train["item"]) == 59_389
    assert len(split.test["item"]) == 4333
