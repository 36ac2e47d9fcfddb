"""Tiny TFDS sets of sentences whose builders need neither TensorFlow nor a network."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

FIRST = ("red", "green", "blue", "grey")
SENTENCES = [f"{a} {b}, {c}!" for a in FIRST for b in FIRST for c in FIRST]


class _TinyText(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    label: ClassVar = tfds.features.ClassLabel(num_classes=3)
    fields: ClassVar = ("phrase", "kind")
    splits: ClassVar = {"train": range(40), "validation": range(9), "test": range(9)}

    def _features(self):
        return {self.fields[0]: tfds.features.Text(), self.fields[1]: self.label}

    def _info(self):
        features = tfds.features.FeaturesDict(self._features())
        return tfds.core.DatasetInfo(builder=self, description="t", features=features)

    def _split_generators(self, dl_manager):
        return {
            split: self._examples(split, self.splits[split]) for split in self.splits
        }

    def _examples(self, split, numbers):
        for i in numbers:
            yield i, dict(zip(self.fields, self.example(split, i), strict=True))

    def _generate_examples(self):
        raise NotImplementedError

    def example(self, split, i):
        return SENTENCES[i], i % 3


class KdjaxSentences(_TinyText):
    """All three splits, and one more."""

    splits: ClassVar = {**_TinyText.splits, "unlabelled": range(5)}


class KdjaxIntents(_TinyText):
    """An integer for a label, beside other texts, as clinc_oos has it."""

    fields: ClassVar = ("text", "intent", "intent_name")

    def _features(self):
        text = tfds.features.Text()
        return {"text": text, "intent": np.int32, "intent_name": text}

    def example(self, split, i):
        return SENTENCES[i], i % 4, "name"


class KdjaxPhrases(_TinyText):
    """Phrases of sentences; the labels of test are hidden, as glue/sst2 has it."""

    splits: ClassVar = {"train": range(160), "validation": range(9), "test": range(9)}

    def example(self, split, i):
        if split != "train":
            return SENTENCES[i], -1 if split == "test" else i % 3
        sentence, words = SENTENCES[i % 40], SENTENCES[i % 40].split()
        return (sentence, words[0], " ".join(words[:2]), "blue")[i // 40], i % 3


class KdjaxTrainOnly(_TinyText):
    """No held-out split, some sentences without a word, some examples without label."""

    splits: ClassVar = {"train": range(60)}

    def example(self, split, i):
        return "  " if i in (3, 4) else SENTENCES[i], -1 if i < 3 else i % 3


class KdjaxHidden(_TinyText):
    """No label anywhere."""

    def example(self, split, i):
        return SENTENCES[i], -1


class KdjaxSilent(_TinyText):
    """No word anywhere."""

    def example(self, split, i):
        return " ", i % 3


class KdjaxPairs(_TinyText):
    """Two texts, none of which is called text."""

    def _features(self):
        text = tfds.features.Text()
        return {"premise": text, "hypothesis": text, "label": self.label}


class KdjaxTextOffline(_TinyText):
    """Its download fails at once: nothing listens on that port."""

    def _split_generators(self, dl_manager):
        return dl_manager.download("http://127.0.0.1:9/archive.zip")


class KdjaxNumbers(_TinyText):
    """No text at all."""

    def _features(self):
        return {"phrase": np.float32, "kind": self.label}
