"""Byte pairs against a slow reference, and that any text comes back."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import data

TEXT = "low lower lowest aaaaaa aaa aa — “naïve” café\n\n" * 3


def merged(tokens, pair, new):
    found, place = [], 0
    while place < len(tokens):
        if tuple(tokens[place : place + 2]) == pair:
            found.append(new)
            place += 2
        else:
            found.append(tokens[place])
            place += 1
    return found


def reference(text, size):
    """Return merges and tokens, one pair after the other."""
    tokens, merges = list(text.encode()), []
    while 256 + len(merges) < size:
        counts = Counter(itertools.pairwise(tokens))
        if not counts or max(counts.values()) < 2:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        tokens = merged(tokens, pair, 256 + len(merges))
        merges.append(pair)
    return merges, tokens


def test_merges_and_tokens_are_those_of_a_slow_reference():
    merges, tokens = reference(TEXT, 290)
    pairs = data.BytePairs.learned(TEXT, 290)
    assert list(pairs.merges) == merges
    np.testing.assert_array_equal(pairs.encode(TEXT), tokens)


@given(st.text(alphabet="ab ñ—", max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(text):
    pairs = data.BytePairs.learned("abab aaaa ññññ——" * 2, 270)
    tokens = pairs.encode(text)
    assert tokens.dtype == np.int32
    assert pairs.decode(tokens) == text
    assert len(tokens) <= len(text.encode())
    expected = list(text.encode())
    for number, pair in enumerate(pairs.merges):
        expected = merged(expected, pair, 256 + number)
    assert tokens.tolist() == expected


def test_where_no_pair_is_left_the_vocabulary_is_smaller():
    assert data.BytePairs.learned("abc", 300).size == 256
    assert data.BytePairs.learned("", 300).size == 256
    assert data.BytePairs.learned("aa", 300).merges == ()
    assert data.BytePairs.learned("abab", 300).merges == ((97, 98),)


def test_cut_characters_are_shown():
    tokens = data.BytePairs().encode("é")
    assert data.BytePairs().decode(tokens[:1]) == "�"


@pytest.mark.parametrize("size", [255, 0, 256.0])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ValueError, match="size must be an integer from 256"):
        data.BytePairs.learned("text", size)
