"""Sets of TensorFlow Datasets: found, prepared and read without TensorFlow."""

import contextlib
import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdjax import processes
from kdjax.data import _prepare
from kdjax.data.task import Unavailable, missing

DataDir = str | os.PathLike[str] | None


def root(data_dir: DataDir) -> Path:
    """Return TFDS's folder of prepared sets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(folder).expanduser()


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads sets for a function, in whose name it says what is wrong.

    Attributes:
      function: its name.
      check: `check(name, features)` raises for sets of another kind, so that none is
        downloaded in vain.
      own: names that it knows beside those of TFDS.
    """

    function: str
    check: Callable[[str, Any], Any]
    own: tuple[str, ...] = ()

    def builder(self, name: str, root: Path) -> Any:
        """Return a builder whose files are there, preparing them if need be.

        Of several processes the first does, while the others wait.
        """
        if processes.several():
            processes.first(lambda: bool(self._builder(name, root)))
        return self._builder(name, root)

    def _builder(self, name: str, root: Path) -> Any:
        try:
            import tensorflow_datasets as tfds
            import tensorflow_datasets.text  # makes GLUE and others known
            from tensorflow_datasets.core import read_only_builder
        except ImportError as error:
            raise missing("tensorflow-datasets") from error
        if not re.fullmatch(r"\w+(/[\w.+-]+)?(:[\d.]+)?", name):
            raise self._unknown(name, root, tfds)
        not_found = tfds.core.registered.DatasetNotFoundError
        try:
            # From the files first: no set's code is needed for a set that is prepared.
            return read_only_builder.builder_from_files(name, data_dir=root)
        except not_found:
            pass
        except Exception as error:
            raise self._damaged(name, root, error) from error
        try:
            builder = tfds.builder(name, data_dir=root, file_format="array_record")
        except not_found as error:
            raise self._unknown(name, root, tfds) from error
        except Exception as error:
            raise Unavailable(f"{self.function}: {name!r}: {error}") from error
        if Path(builder.data_dir).exists():
            why = "dataset_info.json is missing"
            raise self._damaged(name, Path(builder.data_dir), why)
        self.check(name, builder.info.features)  # before anything is downloaded in vain
        try:
            _prepare.prepare(builder)
        except Exception as error:
            raise self._not_prepared(name, root, error) from error
        return builder

    def source(self, name: str, builder: Any, split: str) -> Any:
        """Return a split, whose `len` can be asked."""
        with self._readable(name, builder):
            source = builder.as_data_source(split=split)
            len(source)
        return source

    def examples(self, name: str, builder: Any, source: Any) -> Iterator[Any]:
        """Yield all examples of a split."""
        for start in range(0, len(source), 512):
            with self._readable(name, builder):
                block = source.__getitems__(range(start, min(start + 512, len(source))))
            yield from block

    @contextlib.contextmanager
    def _readable(self, name: str, builder: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._damaged(name, Path(builder.data_dir), error) from error

    def _unknown(self, name: str, root: Path, tfds: Any) -> Unavailable:
        known = {*self.own, *tfds.list_builders(with_community_datasets=False)}
        close = difflib.get_close_matches(name.split("/")[0], known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        own = "".join(f"{one!r} (kdjax's own), " for one in self.own)
        return Unavailable(
            f"{self.function}: there is no data set {name!r}.{hint}\n"
            f"Names are {own}those of TensorFlow Datasets\n"
            "(https://www.tensorflow.org/datasets/catalog), and those of your own "
            f"sets,\nprepared with TFDS in {root}."
        )

    def _damaged(self, name: str, folder: Path, why: object) -> Unavailable:
        return Unavailable(
            f"{self.function}: {name!r} cannot be read from {folder}:\n"
            f"  {one_line(why)}\n"
            "It is incomplete, damaged, or not in array_record format: remove that "
            "folder\nand prepare the set again."
        )

    def _not_prepared(self, name: str, root: Path, why: Exception) -> Unavailable:
        call = f"{self.function}({name!r}, data_dir='tfds')"
        return Unavailable(
            f"{self.function}: {name!r} is not prepared in {root}, and preparing it "
            f"failed:\n  {one_line(why)}\n"
            "Prepare it on a machine with network, in a folder that you can copy "
            "here:\n"
            "  pip install 'kdjax[data]'\n"
            f'  python -c "from kdjax import data; {call}"\n'
            "or, if it says that TensorFlow is needed (pip install tensorflow):\n"
            f"  tfds build {name} --data_dir=tfds --file_format=array_record\n"
            "Then say where the folder is: --data-dir tfds, or TFDS_DATA_DIR=tfds, or\n"
            f"  {call}"
        )


def one_line(error: object) -> str:
    """Return the first line of an error, and what kind it is of."""
    text = next(iter(str(error).strip().splitlines()), "")
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return (kind + text)[:300]
