"""Words of sentences as numbers."""

import collections
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Self

import numpy as np

from kdjax import checks

MIN_COUNT = 2
"""How often a word must come in the train split to be known."""

_WORD = re.compile(r"[\w']+|[^\w\s]")


def words(sentence: str) -> list[str]:
    """Return the words of a sentence, in lower case; punctuation is words, too.

    A word is a run of letters, digits, underscores and apostrophes, or one other sign
    that is no space. What is written without spaces is one word.

    >>> words("It's 9 o'clock, isn't it?")
    ["it's", '9', "o'clock", ',', "isn't", 'it', '?']
    """
    return _WORD.findall(sentence.lower())


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words by number: 0 is padding, 1 any word that is not known, then the words.

    Attributes:
      known: the words, from number 2 on.

    >>> vocabulary = Vocabulary.of(["to be or not to be", "to do"], min_count=2)
    >>> vocabulary.known, len(vocabulary)
    (('to', 'be'), 4)
    >>> vocabulary.encode(["To be is to do", ""], 4)
    array([[2, 3, 1, 2],
           [1, 0, 0, 0]], dtype=int32)
    """

    known: tuple[str, ...]

    @classmethod
    def of(
        cls,
        sentences: Sequence[str],
        *,
        min_count: int = MIN_COUNT,
        max_words: int | None = None,
    ) -> Self:
        """Return the words of sentences, the most frequent first.

        Args:
          sentences: of the train split, and of no other.
          min_count: how often a word must come.
          max_words: how many words there can be; None is any number.

        Raises:
          ValueError: if no word comes that often, or a number is no integer > 0.
        """
        checks.integer("Vocabulary.of", 1, min_count=min_count)
        if max_words is not None:
            checks.integer("Vocabulary.of", 1, max_words=max_words)
        counts = collections.Counter(word for one in sentences for word in words(one))
        often = [(-n, word) for word, n in counts.items() if n >= min_count]
        if not often:
            raise ValueError(
                f"Vocabulary.of: no word comes {min_count} times or more in the "
                f"{len(sentences):,} sentences, which hold {counts.total():,} words; "
                "give more sentences, or a smaller min_count"
            )
        return cls(tuple(word for _, word in sorted(often)[:max_words]))

    def __len__(self) -> int:
        """Return how many numbers there are: the words, padding and unknown."""
        return 2 + len(self.known)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.known, 2)}

    def encode(self, sentences: Sequence[str], length: int) -> np.ndarray:
        """Return word numbers `[n, length]`, int32: cut, or padded with 0 at the end.

        A sentence without a word is one unknown word.

        Raises:
          ValueError: if `length` is no integer > 0.
        """
        checks.integer("Vocabulary.encode", 1, length=length)
        tokens = np.zeros((len(sentences), length), np.int32)
        for row, sentence in enumerate(sentences):
            found = [self._numbers.get(word, 1) for word in words(sentence)[:length]]
            tokens[row, : max(len(found), 1)] = found or [1]
        return tokens
