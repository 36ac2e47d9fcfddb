"""Tasks, and the digits that are always there."""

import subprocess
import sys

import numpy as np
import pytest

from kdjax import data

DIGITS = "907e3f0c953c5067e6463b8f686936adebba47e10a1d9c3a8d2ac99a6da9b56c"


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return data.load("digits")


def split(n=4, **fields):
    image = np.arange(n * 12).reshape(n, 2, 2, 3).astype(np.uint8)
    return {"image": image, "label": np.zeros(n, np.int32), **fields}


def task(**fields):
    parts = {"train": split(), "validation": split(), "test": split()}
    return data.Task(name="t", num_classes=3, splits="S.", **{**parts, **fields})


def test_digits_are_these_and_no_others(digits):
    assert digits.fingerprint == DIGITS
    assert digits.name == "digits"
    assert digits.num_classes == 10
    assert "first 1,000" in digits.splits
    assert "last 497" in digits.splits


def test_digits_are_lossless_and_contiguous(digits):
    from sklearn.datasets import load_digits

    raw = load_digits()
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part["label"]) for part in parts] == [1000, 300, 497]
    image = np.concatenate([part["image"] for part in parts])
    label = np.concatenate([part["label"] for part in parts])
    np.testing.assert_array_equal(np.rint(image[..., 0] / 255 * 16), raw.images)
    np.testing.assert_array_equal(label, raw.target)
    assert image.max() == 255


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[data\]'"):
        data.load("digits")


def test_moments_are_those_of_numpy(digits):
    for each in (digits, task()):
        scaled = each.train["image"] / 255
        np.testing.assert_allclose(each.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(each.std, scaled.std((0, 1, 2)), rtol=1e-6)
        assert each.mean.dtype == each.std.dtype == np.float32


def test_a_constant_channel_has_no_deviation():
    flat = {**split(), "image": np.full([4, 2, 2, 3], 77, np.uint8)}
    assert task(train=flat).std.tolist() == [0, 0, 0]


def test_the_fingerprint_sees_one_changed_pixel():
    changed = split()
    changed["image"][3, 1, 1, 2] += 1
    assert task().fingerprint == task().fingerprint
    assert task().fingerprint != task(test=changed).fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": {"image": split()["image"]}}, r"train must hold .* got \['image'\]"),
        ({"test": split(image=np.zeros([4, 2, 2, 3]))}, r"test: image must be uint8"),
        ({"test": split(image=np.zeros([4, 2], np.uint8))}, r"got uint8\[4, 2\]"),
        ({"test": split(label=np.zeros(3, np.int32))}, r"n = 4 >= 1, got int32\[3\]"),
        ({"test": split(label=np.zeros(4))}, r"got float64\[4\]"),
        ({"test": split(0)}, r"n = 0 >= 1"),
        ({"validation": split(label=np.full(4, 3, np.int32))}, r"in \[0, 3\), got 3"),
        ({"validation": split(label=np.full(4, -1, np.int32))}, r"got -1 to -1"),
    ],
)
def test_wrong_arrays_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        task(**fields)


def test_image_size_must_be_positive():
    with pytest.raises(ValueError, match="image_size must be >= 1, got 0"):
        data.load("mnist", image_size=0)


def test_digits_are_not_resized():
    with pytest.raises(ValueError, match="8x8, got image_size 16"):
        data.load("digits", image_size=16)


def test_the_import_is_light():
    heavy = "tensorflow_datasets", "sklearn", "PIL", "flax", "tensorflow"
    code = f"import sys, kdjax.data; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
