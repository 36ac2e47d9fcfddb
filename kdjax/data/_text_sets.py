"""Text classification sets of TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data import _builders, _phrases, _prepare
from kdjax.data.task import Unavailable
from kdjax.data.vocabulary import words

Sentences = tuple[list[str], list[int]]

_SPLITS = ("train", "validation", "test")
_NAMES = {"text": ("text", "sentence"), "label": ("label", "intent")}


def load(name: str, root: Path) -> tuple[list[Sentences], int, str]:
    """Return the three splits of a set, its number of classes, and how they were made.

    Errors are those of `data.load_text`.
    """
    with _prepare.quiet():
        builder = _READER.builder(name, root)
        fields = _fields(name, builder.info.features)
        own = {
            split: _read(name, builder, split, fields)
            for split in _SPLITS
            if split in builder.info.splits
        }
    splits, said = _three(name, own)
    others = [repr(split) for split in builder.info.splits if split not in _SPLITS]
    said += f" Not used: its {', '.join(others)}." if others else ""
    classes = getattr(builder.info.features[fields[1]], "num_classes", None)
    return splits, classes or 1 + max(splits[0][1]), said


def _fields(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the text and of the label among the features."""
    import tensorflow_datasets as tfds

    def choose(role: str, candidates: list[str]) -> list[str]:
        return [one for one in _NAMES[role] if one in candidates][:1] or candidates

    items = dict(sorted(features.items())) if hasattr(features, "items") else {}
    texts = [k for k, f in items.items() if isinstance(f, tfds.features.Text)]
    labels = [k for k, f in items.items() if isinstance(f, tfds.features.ClassLabel)]
    numbers = [k for k, f in items.items() if k in _NAMES["label"] and _whole(f)]
    texts, labels = choose("text", texts), choose("label", labels or numbers)
    if len(texts) != 1 or len(labels) != 1:
        described = ", ".join(f"{k} ({type(f).__name__})" for k, f in items.items())
        raise Unavailable(
            f"data.load_text: {name!r} is not a text classification set: it needs one "
            "text (or one named 'text' or 'sentence') and one class label (or one "
            "named 'label', or an integer named 'label' or 'intent'), and has "
            f"{described or type(features).__name__}"
        )
    return texts[0], labels[0]


def _whole(feature: Any) -> bool:
    kind = getattr(feature, "np_dtype", None)
    return feature.shape == () and kind is not None and np.issubdtype(kind, np.integer)


_READER = _builders.Reader("data.load_text", _fields)


def _decoded(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _read(
    name: str, builder: Any, split: str, fields: tuple[str, str]
) -> tuple[list[str], list[int]]:
    """Return the sentences of a split and their labels, -1 where there is none."""
    source = _READER.source(name, builder, split)
    examples = list(_READER.examples(name, builder, source))
    texts = [_decoded(example[fields[0]]) for example in examples]
    return texts, [int(example[fields[1]]) for example in examples]


def _labelled(split: Sentences) -> Sentences:
    """Return the examples that have a label."""
    pairs = [(text, label) for text, label in zip(*split, strict=True) if label >= 0]
    return [text for text, _ in pairs], [label for _, label in pairs]


def _three(name: str, own: dict[str, Sentences]) -> tuple[list[Sentences], str]:
    """Return train, validation and test, and how they were made."""
    labelled = {split: _labelled(examples) for split, examples in own.items()}
    there = {split: examples for split, examples in labelled.items() if examples[0]}
    if "train" not in there:
        raise Unavailable(
            f"data.load_text: {name!r} has no examples with a label in a split "
            "'train' (-1 is no label), so there is nothing to learn from"
        )
    if len(there) == 3:
        splits = [there[split] for split in ("train", "validation", "test")]
        said = "Train, validation and test are the set's own."
    else:
        splits, said = _held_out(there)
    for split, (texts, _) in labelled.items():
        if lost := len(own[split][0]) - len(texts):
            said += f" Left out, without a label: {lost:,} of its {split!r}."
    return splits, said


def _held_out(there: dict[str, Sentences]) -> tuple[list[Sentences], str]:
    """Return train, validation and test of a set that lacks some of them."""
    tests = [split for split in ("test", "validation") if split in there]
    texts, labels = there["train"]
    plain = [" ".join(words(text)) for text in texts]
    rows, whole = _phrases.held_out(plain, parts=2 - len(tests))
    parts = [([texts[i] for i in part], [labels[i] for i in part]) for part in rows]
    test, told = parts[-1], f"test another {len(parts[-1][0]):,}, for the set has none"
    if tests:
        test, told = there[tests[0]], f"test is the set's own split {tests[0]!r}"
    said = (
        f"Validation is a fixed random {len(parts[1][0]):,} of the {whole:,} train "
        f"sentences that are no part of another, {told}, and train is the "
        f"{len(parts[0][0]):,} of {len(texts):,} that are part of a sentence left."
    )
    return [parts[0], parts[1], test], said


def plain(name: str, root: Path) -> str:
    """Return the texts of a set's splits, one after another.

    Errors are those of `data.plain_text`.
    """
    with _prepare.quiet():
        builder = _PLAIN.builder(name, root)
        field = _text(name, builder.info.features)
        splits = [one for one in _SPLITS if one in builder.info.splits]
        sources = [_PLAIN.source(name, builder, split) for split in splits]
        examples = [x for one in sources for x in _PLAIN.examples(name, builder, one)]
    return "\n".join(_decoded(example[field]) for example in examples)


def _text(name: str, features: Any) -> str:
    """Return the name of the only text among the features."""
    import tensorflow_datasets as tfds

    items = dict(features.items()) if hasattr(features, "items") else {}
    texts = [k for k, f in items.items() if isinstance(f, tfds.features.Text)]
    if len(texts) != 1:
        raise Unavailable(
            f"data.plain_text: {name!r} must have one text in each example, and has "
            f"{len(texts)}; 'tiny_shakespeare' is such a set"
        )
    return texts[0]


_PLAIN = _builders.Reader("data.plain_text", _text)
