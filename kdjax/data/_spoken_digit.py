"""The Free Spoken Digit data set as one of TFDS that stores samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from kdjax.data import speech


class SpokenDigitWaves(tfds.core.GeneratorBasedBuilder):
    """Recordings of spoken digits; CC BY-SA 4.0.

    The set of TFDS itself, `spoken_digit`, needs TensorFlow even to be read. The config
    is named by the archive that the recordings come from. What is downloaded must have
    the known SHA-256.

    Source: Jackson et al., "Free Spoken Digit Dataset" (2016),
    https://github.com/Jakobovski/free-spoken-digit-dataset
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {
        speech.URL: checksums.UrlInfo(11_975_353, speech.SHA256, "v1.0.9.tar.gz")
    }
    archive: Path | None = None
    """Read instead of a download."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "name": tfds.features.Text(),
            "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
            "label": tfds.features.ClassLabel(num_classes=10),
            "speaker": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Spoken digits, int16 samples at 8 kHz; CC BY-SA 4.0.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        path = self.archive or Path(dl_manager.download(speech.URL))
        return {"train": self._generate_examples(speech.read(path))}

    def _generate_examples(self, recordings: Any) -> Iterator[tuple[str, Any]]:
        for row, (name, audio) in enumerate(recordings.waves.items()):
            label, speaker = recordings.label[row], recordings.speaker[row]
            yield (
                name,
                {"name": name, "audio": audio, "label": label, "speaker": str(speaker)},
            )
