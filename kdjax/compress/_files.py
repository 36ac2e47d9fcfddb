"""Compressed variables as one file, in the safetensors format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import core, traverse_util

from kdjax import trees
from kdjax.base import Variables
from kdjax.compress._pack import Packed, pack, unpack
from kdjax.compress.quantize import Quantized
from kdjax.files import replace

_FORMAT = "kdjax compressed variables 1"


class Damaged(RuntimeError):
    """A file is not what was written; the message names it."""


def save(
    path: str | Path, variables: Variables, about: Mapping[str, Any] | None = None
) -> int:
    """Write variables as one file that is as small as they are: `pack`.

    The file is in the safetensors format, which many programs read. An array is a
    tensor called by its path; of what is packed the bits are, as uint8, beside
    `path:mask`, `path:scale` and so on. The file's metadata say what they stand for,
    and hold a SHA-256 of all. Numbers of 64 bits are kept with 32, as by `pack`.

    Args:
      path: of the file, usually `*.safetensors`; replaced as a whole.
      variables: nested dicts of arrays and `quantize.Quantized`; names without "/" and
        ":".
      about: JSON values to keep beside them; arrays become lists and numbers.

    Returns:
      The size of the file in bytes.

    Raises:
      ValueError: if there are other containers than dicts with such names, or something
        in `about` is no JSON value.
      OSError: if the file cannot be written.
      ImportError: without the packages of `pip install 'kdjax[compress]'`.

    Example::

        small = {**variables, "params": quantize.quantized(variables["params"], method)}
        compress.save("student.safetensors", small, {"data": "digits"})
        variables, about = compress.load("student.safetensors")
        student.apply(quantize.dequantized(variables), images)
    """
    safetensors = _safetensors()
    named = _by_path(variables)
    empty = [n for n, leaf in named.items() if leaf is traverse_util.empty_node]
    packed = {n: pack(leaf) for n, leaf in named.items() if n not in empty}
    tensors = _tensors(packed)
    stored = {name: _storable(array) for name, array in tensors.items()}
    # as it will be read: names that are numbers become text
    about = _as_read(dict(about or {}))
    described: dict[str, Any] = {"leaves": {}, "empty": empty, "about": about}
    for name, leaf in packed.items():
        found = stored[name]
        if (found.shape, found.dtype.name) != (leaf.shape, leaf.dtype):
            described["leaves"][name] = [[*leaf.shape], leaf.dtype, leaf.bits]
    described["sha256"] = _digest(tensors, described)
    metadata = {"format": _FORMAT, "kdjax": json.dumps(described)}
    return replace(path, safetensors.save(stored, metadata))


def load(path: str | Path) -> tuple[Variables, dict[str, Any]]:
    """Return the variables that `save` wrote, and what was kept beside them.

    Returns:
      Nested dicts of arrays and `quantize.Quantized`, equal to what was saved bit by
      bit, and the JSON values.

    Raises:
      FileNotFoundError: if there is no such file.
      Damaged: if it is no such file, or not as it was written.
      ImportError: without the packages of `pip install 'kdjax[compress]'`.
    """
    safetensors, content = _safetensors(), Path(path).read_bytes()
    try:
        stored = safetensors.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')}, not {_FORMAT}")
        described = json.loads(metadata["kdjax"])
        sha256 = described.pop("sha256")
        packed = _leaves(stored, described["leaves"])
    except Exception as error:  # whatever a damaged file makes of them
        why = f"it cannot be read as compressed variables: {error}"
        raise Damaged(f"{path} is damaged: {why}") from error
    if _digest(_tensors(packed), described) != sha256:
        raise Damaged(f"{path} is damaged: its content does not match its checksum")
    named = unpack(packed) | dict.fromkeys(described["empty"], traverse_util.empty_node)
    return traverse_util.unflatten_dict(named, sep="/"), described["about"]


def _by_path(variables: Variables) -> dict[str, Any]:
    """Return arrays by path, and empty dicts."""
    where = "compress.save: variables must be nested dicts of arrays, but"
    if not isinstance(variables, dict | core.FrozenDict):
        raise ValueError(f"{where} these are {type(variables).__name__}")
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    for path, leaf in flat.items():
        for name in path:
            if not isinstance(name, str) or {"/", ":"} & set(name):
                raise ValueError(f"{where} {name!r} is no name without '/' and ':'")
        if path == ("__metadata__",):
            raise ValueError(f"{where} '__metadata__' is reserved by the file format")
        known = isinstance(leaf, Quantized | int | float) or hasattr(leaf, "dtype")
        if not known and leaf is not traverse_util.empty_node:
            kind = type(leaf).__name__
            raise ValueError(f"{where} {'/'.join(path)!r} holds {kind}")
    return {"/".join(path): leaf for path, leaf in flat.items()}


def _as_read(about: dict[Any, Any]) -> Any:
    """Return JSON values as they will be read: arrays are lists or numbers in them."""
    try:
        return json.loads(json.dumps(about, default=lambda value: value.tolist()))
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"compress.save: about must be JSON values or arrays: {error}"
        ) from error


def _leaves(
    stored: Mapping[str, np.ndarray], described: Mapping[str, Any]
) -> dict[str, Packed]:
    """Return what was packed; leaves that are not described are plain arrays."""
    grouped: dict[str, dict[str, Any]] = {}
    for key, array in stored.items():
        name, _, field = key.partition(":")
        grouped.setdefault(name, {})[field or "data"] = array
    packed = {}
    for name, arrays in grouped.items():
        data = arrays["data"]
        known = described.get(name, [data.shape, data.dtype.name, None])
        shape, dtype, bits = known
        if bits is None and data.dtype.name != dtype:  # stored as its bytes
            data = data.view(jnp.dtype(dtype))
            arrays["data"] = data if "mask" in arrays else data.reshape(shape)
        packed[name] = Packed(arrays, tuple(shape), dtype, bits)
    return packed


def _tensors(packed: Mapping[str, Packed]) -> dict[str, np.ndarray]:
    """Return all arrays by the names that they have in the file."""
    found = {}
    for name, leaf in packed.items():
        for field, array in leaf.arrays.items():
            key = name if field == "data" else f"{name}:{field}"
            found[key] = np.asarray(array)
    return found


def _digest(tensors: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> str:
    text = json.dumps(described, sort_keys=True)
    return trees.fingerprint([tensors, np.frombuffer(text.encode(), np.uint8)])


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of a dtype that NumPy knows: others as their bytes."""
    plain = array.dtype.isbuiltin == 1 and array.dtype.kind in "fiub"
    return array if plain else np.frombuffer(array.tobytes(), np.uint8)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "compress.save and load need safetensors: pip install 'kdjax[compress]'"
        ) from error
    return safetensors.numpy
