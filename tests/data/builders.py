"""Tiny TFDS sets whose builders need neither TensorFlow nor a network."""

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

SIZES = {"train": 40, "test": 10}


def example(index, shape=(6, 5, 3)):
    """A picture that tells its index, so that order and content can be checked."""
    image = np.random.default_rng(index).integers(0, 256, shape).astype(np.uint8)
    return {"image": image, "label": index % 4}


class _Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    image = tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8)
    shapes = ((6, 5, 3),)
    sizes: ClassVar = SIZES

    def _features(self):
        return {
            "image": self.image,
            "label": tfds.features.ClassLabel(num_classes=4),
            "coarse": tfds.features.ClassLabel(num_classes=2),
        }

    def _info(self):
        features = tfds.features.FeaturesDict(self._features())
        return tfds.core.DatasetInfo(builder=self, description="t", features=features)

    def _split_generators(self, dl_manager):
        start = np.cumsum([0, *self.sizes.values()]).tolist()
        return {
            split: self._generate_examples(range(start[i], start[i + 1]))
            for i, split in enumerate(self.sizes)
        }

    def _generate_examples(self, indices):
        for index in indices:
            shape = self.shapes[index % len(self.shapes)]
            yield index, {**example(index, shape), "coarse": index % 2}


class KdjaxTensors(_Tiny):
    """Raw arrays; test split but no validation."""


class KdjaxPngs(_Tiny):
    """Grey PNGs that Pillow must encode, all three splits."""

    image = tfds.features.Image(shape=(6, 5, 1), encoding_format="png")
    shapes = ((6, 5, 1),)
    sizes: ClassVar = {"train": 20, "validation": 10, "test": 10}


class KdjaxJpegs(_Tiny):
    """Colour JPEGs of two sizes; only a train split."""

    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    shapes = ((6, 5, 3), (8, 8, 3))
    sizes: ClassVar = {"train": 20}


class KdjaxValidated(_Tiny):
    """Its only held-out split is called validation."""

    sizes: ClassVar = {"train": 20, "validation": 10}


class KdjaxUntrained(_Tiny):
    """No train split."""

    sizes: ClassVar = {"test": 10}


class KdjaxTwoLabels(_Tiny):
    """Two class labels, none of which is called label."""

    def _features(self):
        label = tfds.features.ClassLabel(num_classes=4)
        return {"image": self.image, "kind": label, "colour": label}


class KdjaxZipped(_Tiny):
    """Opens its files through TensorFlow's file system, as cifar10 does."""

    def _split_generators(self, dl_manager):
        archive = Path(self.data_dir_root) / "archive.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("numbers.txt", "0 1 2 3 4 5 6 7 8 9")
        folder = dl_manager.extract(archive)
        numbers = (folder / "numbers.txt").read_text().split()
        return {"train": self._generate_examples(range(len(numbers)))}


class KdjaxOffline(_Tiny):
    """Its download fails at once: nothing listens on that port."""

    def _split_generators(self, dl_manager):
        return dl_manager.download("http://127.0.0.1:9/archive.zip")
