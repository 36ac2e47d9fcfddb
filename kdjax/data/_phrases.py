"""Holding out whole sentences where other examples are parts of them."""

import collections
from collections.abc import Sequence

import numpy as np

# Part of what a split means: changing it changes every result.
_SEED = 20_131_018
_MOST = 10_000


def holders(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return, of each text, the whole ones that it is part of.

    A text is whole if it is part of no other; of itself it is a part. Words are what
    stands between single spaces.
    """
    found: dict[str, list[str]] = {}
    # whole texts by word
    having: dict[str, list[str]] = collections.defaultdict(list)
    for text in sorted(set(texts), key=lambda text: (-len(text), text)):
        words = set(text.split(" "))
        rarest = min((having[word] for word in words), key=len)
        found[text] = [one for one in rarest if f" {text} " in f" {one} "] or [text]
        if found[text] == [text]:
            for word in words:
                having[word].append(text)
    return found


def held_out(texts: Sequence[str], parts: int) -> tuple[list[np.ndarray], int]:
    """Return rows to train on and rows of `parts` held-out splits, and whole texts.

    Each held-out split is a fixed random tenth of the whole texts (at most 10,000), and
    nothing else: phrases of a sentence would be easier than the sentence. What is left
    to train on is part of at least one text that is not held out.
    """
    of = holders(texts)
    whole = sorted(text for text, these in of.items() if these == [text])
    count = min(len(whole) // 10, _MOST)
    order = np.random.default_rng(_SEED).permutation(len(whole))
    split_of = {
        whole[row]: number
        for number in range(parts)
        for row in order[number * count : (number + 1) * count]
    }
    rows: list[list[int]] = [[] for _ in range(parts + 1)]
    for row, text in enumerate(texts):
        if text in split_of:
            rows[1 + split_of[text]].append(row)
        elif any(one not in split_of for one in of[text]):
            rows[0].append(row)
    return [np.array(these, np.int64) for these in rows], len(whole)
