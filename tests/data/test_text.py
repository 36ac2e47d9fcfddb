"""Sentences as tokens, and text sets of TFDS: read, split, refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from kdjax import data
from kdjax.data import _phrases, vocabulary

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from .text_builders import FIRST, SENTENCES

SHARED = Path(__file__).parents[3] / "shared" / "tfds"


shared = pytest.mark.skipif(
    not (SHARED / "clinc_oos").is_dir(), reason="no prepared sets beside the repository"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def load(root):
    return lambda name, **settings: data.load_text(name, data_dir=root, **settings)


def sentences(task, split):
    """Return the sentences of a split as words, from their tokens."""
    known = ("", "?", *task.vocabulary.known)
    rows = getattr(task, split)["tokens"]
    return [" ".join(known[token] for token in row if token) for row in rows]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("What's up?", ["what's", "up", "?"]),
        ("DO n't  `` stop ''", ["do", "n't", "`", "`", "stop", "''"]),
        ("2.5 %\tof x_1\n", ["2", ".", "5", "%", "of", "x_1"]),
        ("Çok güzel…", ["çok", "güzel", "…"]),
        (" \n", []),
        ("", []),
    ],
)
def test_words_are_lower_case_and_signs_stand_alone(sentence, expected):
    assert data.words(sentence) == expected


def test_a_vocabulary_is_ordered_by_count_then_word():
    given = ["b a c", "c b", "d"]
    made = data.Vocabulary.of(given, min_count=1)
    assert made.known == ("b", "c", "a", "d")
    assert len(made) == 6
    assert data.Vocabulary.of(given).known == ("b", "c")
    assert data.Vocabulary.of(given, min_count=1, max_words=3).known == ("b", "c", "a")
    assert made == data.Vocabulary.of(given[::-1], min_count=1)


def test_sentences_are_cut_padded_and_never_empty():
    made = data.Vocabulary(("a", "b"))
    tokens = made.encode(["a b a", "B!", "", "z"], 2)
    assert tokens.tolist() == [[2, 3], [3, 1], [1, 0], [1, 0]]
    assert tokens.dtype == np.int32
    assert made.encode([], 2).shape == (0, 2)
    for wrong in (0, 2.0):
        with pytest.raises(ValueError, match="length must be an integer >= 1"):
            made.encode(["a"], wrong)


@pytest.mark.parametrize("given", [[], [""], ["a b", "c"]])
def test_an_empty_vocabulary_is_refused(given):
    with pytest.raises(
        ValueError, match=r"no word comes 2 times or more in the \d sen"
    ):
        data.Vocabulary.of(given)


@pytest.mark.parametrize("name", ["min_count", "max_words"])
def test_numbers_of_words_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
        data.Vocabulary.of(["a a"], **{name: 0})


def test_the_vocabulary_is_of_the_train_split_alone(load):
    task = load("kdjax_sentences", length=4)
    assert task.num_classes == 3
    assert set(task.vocabulary.known) == {*FIRST[:3], ",", "!", "grey"}
    assert [len(s["label"]) for s in (task.train, task.validation, task.test)] == [
        40,
        9,
        9,
    ]
    for split in (task.train, task.validation, task.test):
        assert split["tokens"].shape == (len(split["label"]), 4)
        assert split["tokens"].dtype == split["label"].dtype == np.int32
    expected = {
        " ".join(vocabulary.words(x)[:4]): i % 3 for i, x in enumerate(SENTENCES)
    }
    assert sorted(sentences(task, "test")) == sorted(list(expected)[:9])
    assert "the set's own. Not used: its 'unlabelled'." in task.splits
    assert "padded to 4 (100.0% of the sentences are cut)" in task.splits


def test_train_words_alone_are_known():
    task = data.TextTask.of(
        "mine", [(["a a"], [0]), (["b b"], [0]), (["a b b b"], [0])], 1, "S.", length=3
    )
    assert task.vocabulary.known == ("a",)
    assert task.test["tokens"].tolist() == [[2, 1, 1]]
    assert "of the 1 commonest" in task.splits
    assert "others (75.0% of the test split's) are one unknown word." in task.splits
    assert "(33.3% of the sentences are cut)" in task.splits


def test_integers_and_names_tell_text_and_label(load):
    task = load("kdjax_intents", max_words=2)
    assert task.num_classes == 4
    assert len(task.vocabulary) == 4
    assert task.train["tokens"].shape == (40, 32)


def test_phrases_of_held_out_sentences_are_not_trained_on(load):
    task = load("kdjax_phrases")
    assert "Left out, without a label: 9 of its 'test'." in task.splits
    assert "4 of the 40 train sentences that are no part of another" in task.splits
    assert "test is the set's own split 'validation'" in task.splits
    held, kept = sentences(task, "validation"), sentences(task, "train")
    assert len(held) == 4
    assert all(len(one.split()) == 5 for one in held)
    whole = [one for one in kept if len(one.split()) == 5]
    assert len(whole) == 36
    for phrase in kept:
        assert any(f" {phrase} " in f" {one} " for one in whole)
    assert len(task.test["label"]) == 9


def test_what_a_set_lacks_is_held_out_of_train(load):
    task = load("kdjax_train_only")
    assert "Left out, without a label: 3 of its 'train'." in task.splits
    assert "random 5 of the 56 train" in task.splits
    assert "test another 5, for the set has none" in task.splits
    assert "and so are 2 sentences without a word." in task.splits
    every = [*map(tuple, np.concatenate([s["tokens"] for s in splits_of(task)]))]
    assert len(every) == 57
    assert len(set(every)) == 56  # the two without a word are the same


def splits_of(task):
    return task.train, task.validation, task.test


def test_holders_of_texts():
    texts = ["a b c", "b c", "b", "c a", "bc", "a b c", ""]
    found = _phrases.holders(texts)
    assert found == {
        "a b c": ["a b c"],
        "b c": ["a b c"],
        "b": ["a b c"],
        "c a": ["c a"],
        "bc": ["bc"],
        "": [""],
    }


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_of_kept_texts_are_kept(parts):
    whole = [f"x{i} y{i} z" for i in range(20)]
    texts = [*whole, *(f"x{i} y{i}" for i in range(20)), "z"]
    (train, *held), count = _phrases.held_out(texts, parts)
    assert count == 20
    assert [len(rows) for rows in held] == [2] * parts
    out = {int(row) for rows in held for row in rows}
    assert len(out) == 2 * parts
    gone = out | {row + 20 for row in out}
    assert set(train.tolist()) == set(range(41)) - gone
    again = _phrases.held_out(texts, parts)[0]
    assert all(map(np.array_equal, again, (train, *held)))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "kdjax_hidden",
            data.Unavailable,
            "no examples with a label in a split 'train",
        ),
        ("kdjax_silent", ValueError, "no word comes 2 times or more in the 40 sent"),
        ("kdjax_pairs", data.Unavailable, "hypothesis (Text), label (ClassLabel)"),
        ("kdjax_numbers", data.Unavailable, "has kind (ClassLabel), phrase (Tensor)"),
        ("kdjax_text_offline", data.Unavailable, "preparing it failed:\n  Connect"),
        ("glue/sst22", data.Unavailable, "sst22 not found"),
        ("glu/sst2", data.Unavailable, "no data set 'glu/sst2'. Did you mean 'glue"),
        ("../up", data.Unavailable, "no data set '../up'.\nNames are those of Tens"),
    ],
)
def test_what_cannot_be_had_is_said(load, name, error, message):
    with pytest.raises(error) as caught:
        load(name)
    assert message in str(caught.value)


def test_a_plain_text_is_that_of_all_splits_in_a_row(root):
    lines = data.plain_text("kdjax_sentences", data_dir=root).split("\n")
    parts = lines[:40], lines[40:49], lines[49:]  # TFDS shuffles each
    expected = SENTENCES[:40], SENTENCES[:9], SENTENCES[:9]
    assert list(map(sorted, parts)) == list(map(sorted, expected))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kdjax_pairs", "data.plain_text: 'kdjax_pairs' must have one text in each"),
        ("kdjax_numbers", "each example, and has 0; 'tiny_shakespeare' is such a set"),
        ("kdjax_text_offline", "data.plain_text('kdjax_text_offline', data_dir="),
        ("tiny_shakespear", "Did you mean 'tiny_shakespeare'"),
    ],
)
def test_no_plain_text_is_said(root, name, message):
    with pytest.raises(data.Unavailable) as caught:
        data.plain_text(name, data_dir=root)
    assert message in str(caught.value)


def test_how_to_get_a_set_is_said(load):
    with pytest.raises(data.Unavailable) as caught:
        load("kdjax_text_offline")
    call = "data.load_text('kdjax_text_offline', data_dir='tfds')"
    assert str(caught.value).count(call) == 2


def test_a_damaged_set_is_named(load, root):
    load("kdjax_intents")
    next((root / "kdjax_intents").rglob("*-test*")).unlink()
    with pytest.raises(data.Unavailable, match="incomplete, damaged"):
        load("kdjax_intents")


def test_a_missing_package_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[data\]'"):
        load("clinc_oos")


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ([(["a a"], [0])] * 2 + [([], [])], "test needs sentences .* got 0 and 0"),
        ([(["a a"], [0, 1])] * 3, "train needs sentences and as many labels, got 1"),
        ([(["a a"], [2])] * 3, r"train: labels must be in \[0, 2\), got 2 to 2"),
    ],
)
def test_wrong_splits_are_refused(splits, says):
    with pytest.raises(ValueError, match=f"TextTask 'mine': {says}"):
        data.TextTask.of("mine", splits, 2, "Mine.", length=3)


@shared
def test_the_real_intents():
    task = data.load_text("clinc_oos", data_dir=SHARED, length=20)
    assert [len(s["label"]) for s in splits_of(task)] == [15_000, 3_000, 4_500]
    assert np.bincount(task.test["label"]).tolist() == [30] * 150
    assert "'train_oos'" in task.splits
