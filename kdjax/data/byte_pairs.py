"""Text as numbers: bytes, and the pairs of them that occur most."""

import dataclasses

import numpy as np

from kdjax import checks

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class BytePairs:
    """A vocabulary of bytes and of merged pairs; any text can be encoded.

    Tokens 0 to 255 are bytes of UTF-8; token `256 + k` is the k-th merged pair.

    Attributes:
      merges: pairs of tokens, in the order in which they are merged.

    Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with
    Subword Units", https://arxiv.org/abs/1508.07909 (2016); on bytes: Radford et al.,
    GPT-2, 2019.

    >>> pairs = BytePairs.learned("low lower lowest", size=259)
    >>> tokens = pairs.encode("slow")
    >>> [pairs.decode(tokens[k:k + 1]) for k in range(len(tokens))]
    ['s', 'low']
    """

    merges: tuple[Pair, ...] = ()

    @classmethod
    def learned(cls, text: str, size: int) -> "BytePairs":
        """Return the vocabulary of `size` tokens that merges what is most frequent.

        Args:
          text: what pairs are counted in; of pairs that are as frequent, the one of
            lower tokens comes first.
          size: of the vocabulary, from 256 to 32,768; where no pair is left that occurs
            twice, it is smaller. Counting needs up to `8 size²` bytes: it is meant for
            small vocabularies.

        Raises:
          ValueError: if the size is out of range.
        """
        checks.integer("BytePairs.learned", 256, 2**15, size=size)
        tokens, merges = cls().encode(text), []
        for new in range(256, size):
            if len(tokens) < 2:
                break
            counts = np.bincount(tokens[:-1].astype(np.int64) * size + tokens[1:])
            if counts.max() < 2:
                break
            first, second = divmod(int(counts.argmax()), size)
            merges.append((first, second))
            tokens = _merged(tokens, (first, second), new)
        return cls(tuple(merges))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return 256 + len(self.merges)

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, int32 `[n]`."""
        tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        for number, pair in enumerate(self.merges):
            tokens = _merged(tokens, pair, 256 + number)
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens `[n]`; cut characters become U+FFFD."""
        spelled = [bytes([byte]) for byte in range(256)]
        for first, second in self.merges:
            spelled.append(spelled[first] + spelled[second])
        return b"".join(spelled[token] for token in tokens).decode(errors="replace")


def _merged(tokens: np.ndarray, pair: Pair, new: int) -> np.ndarray:
    """Replace a pair by a token, from left to right."""
    found = (tokens[:-1] == pair[0]) & (tokens[1:] == pair[1])
    if pair[0] == pair[1] and found.any():
        # of three equal tokens in a row only the first two are a pair
        starts = np.flatnonzero(found & ~np.append(False, found[:-1]))
        place = np.arange(len(found))
        before = np.searchsorted(starts, place, side="right") - 1
        found &= (place - starts[np.maximum(before, 0)]) % 2 == 0
    places = np.flatnonzero(found)
    merged = tokens.copy()
    merged[places] = new
    return np.delete(merged, places + 1)
