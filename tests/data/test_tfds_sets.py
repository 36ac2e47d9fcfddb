"""Sets of TFDS: found, prepared, decoded, cached and split without TensorFlow."""

import importlib.util
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from kdjax import data, trees
from kdjax.data import _cache, _prepare, tfds_sets

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from . import builders

SHARED = Path(__file__).parents[3] / "shared" / "tfds"
shared = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="no prepared sets beside the repository"
)


without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def load(root, tmp_path):
    def load(name, **kwargs):
        kwargs = {"data_dir": root, "cache_dir": tmp_path / "cache", **kwargs}
        return data.load(name, **kwargs)

    return load


def listing(folder):
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def together(*splits):
    return np.concatenate([split["image"] for split in splits])


def test_a_set_is_prepared_and_read_without_tensorflow(load, capsys):
    task = load("kdjax_tensors")
    assert task.name == "kdjax_tensors"
    assert task.num_classes == 4
    assert task.train["image"].shape == (36, 6, 5, 3)
    assert task.validation["image"].shape == (4, 6, 5, 3)
    assert task.test["label"].dtype == np.int32
    assert "random 4 of the set's 40 train examples" in task.splits
    assert "own split 'test'" in task.splits
    assert capsys.readouterr().out == ""
    expected = {builders.example(i)["image"].tobytes(): i % 4 for i in range(50)}
    seen = [
        (image.tobytes(), label)
        for split in (task.train, task.validation, task.test)
        for image, label in zip(split["image"], split["label"], strict=True)
    ]
    assert len(seen) == len(dict(seen)) == 50  # no picture in two splits
    assert dict(seen) == expected


def test_a_prepared_set_is_only_read_and_silent(load, root, capfd, caplog, tmp_path):
    first = load("kdjax_tensors")
    before = listing(root)
    capfd.readouterr()
    again = load("kdjax_tensors", cache_dir=tmp_path / "another")
    assert listing(root) == before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert again.fingerprint == first.fingerprint


def test_pngs_are_lossless_and_keep_their_single_channel(load):
    task = load("kdjax_pngs")
    assert task.splits == "Train, validation and test are the set's own."
    found = together(task.train, task.validation, task.test)
    assert found.shape == (40, 6, 5, 1)
    expected = {builders.example(i, (6, 5, 1))["image"].tobytes() for i in range(40)}
    assert {image.tobytes() for image in found} == expected


def test_images_of_several_sizes_need_image_size(load):
    with pytest.raises(ValueError, match=r"differ in size.*image_size=N"):
        load("kdjax_jpegs")
    task = load("kdjax_jpegs", image_size=7)
    assert task.train["image"].shape == (16, 7, 7, 3)
    assert len(task.validation["label"]) == len(task.test["label"]) == 2
    assert "test another 2, for the set has none" in task.splits
    every = together(task.train, task.validation, task.test)
    assert len(np.unique(every.reshape(20, -1), axis=0)) == 20
    assert load("kdjax_jpegs", image_size=8).train["image"].shape == (16, 8, 8, 3)


def test_grey_images_are_resized_too(load):
    assert load("kdjax_pngs", image_size=4).test["image"].shape == (10, 4, 4, 1)


def test_files_are_opened_without_tensorflow(load):
    task = load("kdjax_zipped")
    assert len(together(task.train, task.validation, task.test)) == 10


def test_validation_is_the_test_set_where_there_is_no_other(load):
    task = load("kdjax_validated")
    assert "own split 'validation'" in task.splits
    assert [len(s["label"]) for s in (task.train, task.validation, task.test)] == [
        18,
        2,
        10,
    ]


def test_sets_of_another_kind_are_refused(load, root):
    with pytest.raises(data.Unavailable, match="no examples in a split 'train'"):
        load("kdjax_untrained")
    with pytest.raises(data.Unavailable, match=r"colour \(ClassLabel\), image \(Tens"):
        load("kdjax_two_labels")
    assert not (root / "kdjax_two_labels").exists()  # refused before preparing it


def test_too_large_sets_are_refused(load, monkeypatch):
    monkeypatch.setattr(tfds_sets, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="smaller image_size=N"):
        load("kdjax_tensors")
    assert load("kdjax_tensors", image_size=2).train["image"].shape == (36, 2, 2, 3)


def test_the_cache_is_used_keyed_and_made_again(load, monkeypatch, tmp_path):
    first = load("kdjax_tensors")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("kdjax_tensors-1.0.0-original-")
    with monkeypatch.context() as patch:
        patch.setattr(tfds_sets, "_decode", None)
        assert load("kdjax_tensors").fingerprint == first.fingerprint
    file.write_bytes(file.read_bytes()[:1000])
    assert load("kdjax_tensors").fingerprint == first.fingerprint
    assert file.stat().st_size > 1000
    file.write_bytes(b"")
    assert load("kdjax_tensors").fingerprint == first.fingerprint
    load("kdjax_tensors", image_size=3)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_skipped(load, tmp_path):
    (tmp_path / "file").write_text("in the way")
    task = load("kdjax_tensors", cache_dir=tmp_path / "file" / "cache")
    assert len(task.test["label"]) == 10


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        _cache.cached(tmp_path / "x.npz", lambda: {"a": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_folders_from_the_environment(load, root, monkeypatch, tmp_path):
    load("kdjax_tensors")
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data.load("kdjax_tensors")
    assert len(list((tmp_path / "xdg" / "kdjax" / "data").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _cache.default_dir() == Path.home() / ".cache" / "kdjax" / "data"


def test_without_network_it_says_what_to_do(load, root, capfd):
    with pytest.raises(data.Unavailable) as caught:
        load("kdjax_offline", data_dir=root / "new")
    message = str(caught.value)
    assert f"'kdjax_offline' is not prepared in {root / 'new'}" in message
    assert "ConnectionError" in message.splitlines()[1]
    assert "data.load('kdjax_offline', data_dir='tfds')" in message
    assert "TFDS_DATA_DIR=tfds" in message
    assert "--data-dir tfds" in message
    assert not (root / "new").exists()
    assert capfd.readouterr().out == ""


def test_a_failure_removes_only_empty_folders(load, root):
    keep = root / "old" / "downloads" / "mine"
    keep.mkdir(parents=True)
    with pytest.raises(data.Unavailable):
        load("kdjax_offline", data_dir=root / "old")
    assert [p.name for p in (root / "old").rglob("*")] == ["downloads", "mine"]


@without_tensorflow
def test_the_replacements_are_undone(load):
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    before = downloader.MAX_RETRIES, image_feature._ImageEncoder._encode_image
    with pytest.raises(data.Unavailable):
        load("kdjax_offline")
    assert before == (downloader.MAX_RETRIES, image_feature._ImageEncoder._encode_image)
    assert "_module" not in vars(tensorflow)


def test_tensorflow_is_left_alone_where_it_is_installed(monkeypatch):
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    monkeypatch.setattr(_prepare.importlib.util, "find_spec", lambda name: object())
    with _prepare._without_tensorflow():
        assert "_module" not in vars(tensorflow)


def test_the_log_levels_are_restored():
    logger = logging.getLogger("absl")
    before = logger.level
    with _prepare.quiet():
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.level == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_minst", "Did you mean 'fashion_mnist'?"),
        ("digit", "Did you mean 'digits'"),
        ("qqqqqqqqqq", "no data set 'qqqqqqqqqq'.\nNames are"),
        ("../up", "no data set '../up'"),
        ("", "no data set ''"),
        ("cmaterdb/martian", "martian not found"),
    ],
)
def test_unknown_names(load, name, message):
    with pytest.raises(data.Unavailable) as caught:
        load(name)
    assert message in str(caught.value)


def prepared(load, folder):
    load("kdjax_pngs", data_dir=folder)
    return folder / "kdjax_pngs" / "1.0.0"


@pytest.mark.parametrize("damage", ["truncate", "remove", "no info", "bad info"])
def test_damaged_sets_are_named(load, tmp_path, damage):
    folder = prepared(load, tmp_path / "set")
    records, info = next(folder.glob("*-test*")), folder / "dataset_info.json"
    if damage == "truncate":
        os.truncate(records, 70_000)
    elif damage == "remove":
        records.unlink()
    elif damage == "no info":
        info.unlink()
    else:
        info.write_text("{")
    with pytest.raises(data.Unavailable, match="incomplete, damaged") as caught:
        load("kdjax_pngs", data_dir=tmp_path / "set", cache_dir=tmp_path / "new")
    assert "kdjax_pngs" in str(caught.value)


def test_a_missing_package_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[data\]'"):
        load("mnist")


@shared
def test_real_colour_images(load):
    task = load("cmaterdb/bangla", data_dir=SHARED)
    assert task.train["image"].shape == (4500, 32, 32, 3)
    assert len(task.validation["label"]) == 500
    assert np.bincount(task.test["label"]).tolist() == [100] * 10
    every = {"image": together(task.train, task.validation)}
    assert trees.count(every) == 5000 * 32 * 32 * 3


@shared
def test_a_real_text_set_is_refused_with_its_features(load):
    with pytest.raises(data.Unavailable, match=r"label \(ClassLabel\), sentence \(Te"):
        load("glue/sst2", data_dir=SHARED)
