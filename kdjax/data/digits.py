"""The 1,797 handwritten 8x8 digits that come inside scikit-learn's wheel."""

import numpy as np

from kdjax.data.task import Task, missing


def load() -> Task:
    """Return the digits, with the 17 grey levels spread over 0..255 (lossless).

    Raises:
      ImportError: if scikit-learn is not installed.

    >>> load().test["label"].shape
    (497,)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing("scikit-learn") from error
    raw = load_digits()
    image = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    label = raw.target.astype(np.int32)

    def split(start: int, stop: int) -> dict[str, np.ndarray]:
        return {"image": image[start:stop], "label": label[start:stop]}

    return Task(
        name="digits",
        train=split(0, 1000),
        validation=split(1000, 1300),
        test=split(1300, 1797),
        num_classes=10,
        splits=(
            "Contiguous in file order, because neighbouring images share a writer: "
            "train the first 1,000, validation the next 300, test the last 497."
        ),
    )
