"""The snapshot of 100,000 ratings of MovieTweetings, as a data set of TFDS."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from kdjax.data import ratings

COMMIT = "4d8280a3f1ea83e3e23f13d1710d19f43564274f"
URL = (
    f"https://raw.githubusercontent.com/sidooms/MovieTweetings/{COMMIT}"
    "/snapshots/100K/ratings.dat"
)
SHA256 = "c0dd868c2632d10002ebc928ddc5345f33adeaa59eca52c2941c26a2c5e36fd6"


class Movietweetings(tfds.core.GeneratorBasedBuilder):
    """Ratings of films from 0 to 10 that people tweeted; MIT licence.

    The features are named as those of MovieLens are in TFDS. What is downloaded must
    have the known SHA-256.

    Source: Dooms, De Pessemier and Martens, "MovieTweetings: a movie rating dataset
    collected from Twitter", CrowdRec at RecSys (2013),
    https://github.com/sidooms/MovieTweetings
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {
        URL: checksums.UrlInfo(2_945_101, SHA256, "ratings.dat")
    }

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "user_id": np.int64,
            "movie_id": np.int64,
            "user_rating": np.float32,
            "timestamp": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="MovieTweetings, snapshot of 100,000 ratings; MIT licence.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/sidooms/MovieTweetings",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(dl_manager.download(URL))}

    def _generate_examples(self, path: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        rated = ratings.read(path)
        for row in range(len(rated["user"])):
            example = {ratings.FEATURES[name]: rated[name][row] for name in rated}
            yield row, example
