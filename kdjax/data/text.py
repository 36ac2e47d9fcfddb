"""Sentences as rows of word numbers, and text classification sets of TFDS."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from kdjax import checks
from kdjax.data import _builders, _text_sets
from kdjax.data.task import Split
from kdjax.data.vocabulary import MIN_COUNT, Vocabulary, words

Sentences = tuple[Sequence[str], Sequence[int]]
"""Sentences and the numbers of their classes."""

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class TextTask:
    """A text classification problem, held on the host.

    Attributes:
      name: of the set.
      train: `{"tokens": int32 [n, length], "label": int32 [n]}`; 0 is padding.
      validation: the same fields, for choosing hyper-parameters.
      test: the same fields, for the final figures only.
      num_classes: labels are in `[0, num_classes)`.
      vocabulary: of the train split's words.
      splits: how the splits were made, and sentences became tokens.

    >>> sentences = (["good", "bad", "good", "not bad"], [1, 0, 1, 1])
    >>> task = TextTask.of("mine", [sentences] * 3, 2, "All the same.", length=3)
    >>> task.train["tokens"][3], len(task.vocabulary)
    (array([1, 2, 0], dtype=int32), 4)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    vocabulary: Vocabulary
    splits: str

    @classmethod
    def of(
        cls,
        name: str,
        splits: Sequence[Sentences],
        num_classes: int,
        said: str,
        *,
        length: int,
        max_words: int | None = None,
    ) -> Self:
        """Number the words of sentences by a vocabulary of the train split alone.

        Args:
          name: of the set.
          splits: train, validation and test.
          num_classes: how many classes there are.
          said: how the splits were made.
          length: how many tokens a sentence is cut or padded to.
          max_words: the most words of the vocabulary; None takes all that come twice.

        Raises:
          ValueError: if a split is empty or a label is no class, if no word of train
            comes twice, or if a number is no integer > 0.
        """
        for split, (sentences, labels) in zip(_SPLITS, splits, strict=True):
            _check_labels(f"TextTask {name!r}: {split}", sentences, labels, num_classes)
        texts = [sentences for sentences, _ in splits]
        vocabulary = Vocabulary.of(texts[0], max_words=max_words)
        train, validation, test = (
            {
                "tokens": vocabulary.encode(sentences, length),
                "label": np.asarray(labels, np.int32),
            }
            for sentences, labels in splits
        )
        told = f"{said} {_about_words(vocabulary, texts, length)}"
        return cls(name, train, validation, test, num_classes, vocabulary, told)


def _check_labels(
    what: str, sentences: Sequence[str], labels: Sequence[int], num_classes: int
) -> None:
    if not len(sentences) or len(sentences) != len(labels):
        raise ValueError(
            f"{what} needs sentences and as many labels, got {len(sentences)} and "
            f"{len(labels)}"
        )
    if min(labels) < 0 or max(labels) >= num_classes:
        raise ValueError(
            f"{what}: labels must be in [0, {num_classes}), got {min(labels)} to "
            f"{max(labels)}"
        )


def _about_words(
    vocabulary: Vocabulary, texts: Sequence[Sequence[str]], length: int
) -> str:
    """Say what is lost of the sentences; of train, validation and test."""
    split = [[words(sentence) for sentence in sentences] for sentences in texts]
    every = [len(found) for sentences in split for found in sentences]
    cut = sum(count > length for count in every) / len(every)
    known = set(vocabulary.known)
    tested = [word for found in split[2] for word in found]
    unknown = sum(word not in known for word in tested) / max(len(tested), 1)
    empty = every.count(0)
    return (
        f"Tokens are lower-cased words, cut or padded to {length} ({cut:.1%} of the "
        f"sentences are cut), of the {len(known):,} commonest that come {MIN_COUNT} "
        f"times or more in train; others ({unknown:.1%} of the test split's) are one "
        "unknown word"
        + (f", and so are {empty:,} sentences without a word." if empty else ".")
    )


def load_text(
    name: str,
    *,
    data_dir: _builders.DataDir = None,
    length: int = 32,
    max_words: int | None = None,
) -> TextTask:
    """Load a text classification set of TFDS by name, without TensorFlow.

    The set must have one text (or one named `text` or `sentence`) and one class label
    (or one named `label`), or else an integer named `label` or `intent`. Such are
    `"clinc_oos"`, `"glue/sst2"`, `"imdb_reviews"`. A set that is not yet prepared in
    `data_dir` is downloaded and prepared there.

    Examples without a label (-1) are left out, hence `"glue/sst2"`, which hides the
    labels of its test split, has its validation split as test. What a set lacks is a
    fixed random tenth of the train sentences that are no part of another; and what is
    part of those alone is not trained on.

    Args:
      name: of the set, with its config after a slash where it has several.
      data_dir: TFDS's folder of prepared sets, as for `load`.
      length: how many words a sentence is cut or padded to.
      max_words: the most words of the vocabulary; None takes all that come twice.

    Returns:
      The `TextTask`; `task.splits` says how its splits were made.

    Raises:
      Unavailable: if the name is unknown, if the set is not one for text
        classification or has no labels, or if it is damaged, or not prepared and cannot
        be prepared; it says how to get it.
      ValueError: if `length` or `max_words` is no integer > 0, or no word comes twice.
      ImportError: if the packages of `pip install 'kdjax[data]'` are missing.

    >>> load_text("clinc_oos", length=0)
    Traceback (most recent call last):
    ValueError: data.load_text: length must be an integer >= 1, got 0
    """
    checks.integer("data.load_text", 1, length=length)
    if max_words is not None:
        checks.integer("data.load_text", 1, max_words=max_words)
    splits, classes, said = _text_sets.load(name, _builders.root(data_dir))
    return TextTask.of(name, splits, classes, said, length=length, max_words=max_words)


def plain_text(name: str, *, data_dir: _builders.DataDir = None) -> str:
    """Load the text of a TFDS set by name, without TensorFlow: for language models.

    For example::

        text = data.plain_text("tiny_shakespeare")

    Each example must have one text; those of the splits train, validation and test
    follow each other, a line break between them. A set that is not yet prepared in
    `data_dir` is downloaded and prepared there.

    Args:
      name: of the set, with its config after a slash where it has several.
      data_dir: TFDS's folder of prepared sets, as for `load`.

    Raises:
      Unavailable: if the name is unknown, if the examples have no text or several, or
        if the set is damaged, or not prepared and cannot be prepared; it says how to
        get it.
      ImportError: if the packages of `pip install 'kdjax[data]'` are missing.
    """
    return _text_sets.plain(name, _builders.root(data_dir))
