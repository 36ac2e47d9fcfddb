"""What networks in training need of each device, said before anything is trained."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kdjax import metrics
from kdjax.base import PyTree

_SHOWN = ("parameters", "optimizer", "teacher", "batches", "activations")


class Planned(Exception):
    """All is said that can be without training; holds the needs."""

    def __init__(self, needs: Sequence["Need"]) -> None:
        """See the class."""
        super().__init__(text(needs))


@dataclasses.dataclass(frozen=True)
class Need:
    """What the training of one network needs.

    Attributes:
      name: of the network.
      held: bytes on each device by what they are for.
      flops: of a step, on all devices together.
      devices: how many there are, and of which kind.
    """

    name: str
    held: dict[str, int]
    flops: int
    devices: str

    @property
    def total(self) -> int:
        """Bytes on each device."""
        return sum(self.held.values())


def note(fit: Any, name: str) -> None:
    """Note what a `Fit` needs to train a network, without doing it."""
    run, where = fit.run, fit.run.shardings
    state, teacher = fit.abstract_state(), fit.abstract_teacher()
    if where is not None:
        state = _placed(state, where.of(state))
        teacher = _placed(teacher, where.of_teacher(teacher))
    batches = next(fit.chunks(0, 0))
    program = fit.steps.compiled.lower(state, teacher, batches).compile()
    held = {
        "parameters": per_device((state.params, state.rest, state.past)),
        "optimizer": per_device(state.opt_state),
        "teacher": per_device(teacher),
        "batches": per_device(batches),
        "activations": int(program.memory_analysis().temp_size_in_bytes),
    }
    kind = run.devices[0].device_kind.replace("cpu", "CPU")
    devices = f"{len(run.devices)} x {kind}"
    need = Need(name, held, flops(fit, batches), devices)
    if need not in run.needs:
        run.needs.append(need)


def flops(fit: Any, batches: PyTree) -> int:
    """Return the operations of a training step of a `Fit`, on all devices together."""
    shapes = fit.abstract_state(), fit.abstract_teacher()
    return metrics.operations(fit.steps.pure, *shapes, batches) // fit.calls


def per_device(tree: PyTree) -> int:
    """Return the bytes of a tree's arrays, or shapes, on one device."""

    def one(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 0
        return int(np.prod(shape)) * leaf.dtype.itemsize

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def _placed(shapes: PyTree, where: PyTree) -> PyTree:
    """Return shapes and dtypes with where their arrays will lie."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where
    )


def text(needs: Sequence[Need]) -> str:
    """Return the plan as a table, with what to do where a teacher needs the most."""
    head = ["network", *_SHOWN, "together", "FLOPs a step"]
    rows = [
        [
            need.name,
            *(amount(need.held[name]) for name in _SHOWN),
            amount(need.total),
            f"{need.flops:.2e}",
        ]
        for need in needs
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, ["─" * width for width in widths], *rows]
    ]
    said = [f"On each of {needs[0].devices}, to train one network:", "", *lines, ""]
    return "\n".join([*said, *_notes(needs)])


def amount(count: int) -> str:
    """Return a number of bytes as people read it.

    >>> amount(3 * 2**20)
    '3.0 MiB'
    """
    unit = 0
    size = float(count)
    while size >= 1000 and unit < 4:
        size, unit = size / 1024, unit + 1
    name = ("B", "KiB", "MiB", "GiB", "TiB")[unit]
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {name}"


def _notes(needs: Sequence[Need]) -> list[str]:
    notes = []
    heavy = [need for need in needs if _teacher_is_largest(need)]
    if heavy:
        names = ", ".join(repr(need.name) for need in heavy[:3])
        more = f" and {len(heavy) - 3} more" if len(heavy) > 3 else ""
        notes.append(
            f"The teacher is the largest part beside {names}{more}. Ask it once and "
            "keep what it says (--teacher-cache, where there is one), keep it in half "
            "the memory (--teacher-dtype bfloat16), or cut it over the devices "
            "(--mesh.model N, --mesh.cut-teacher all)."
        )
    if "CPU" in needs[0].devices:
        notes.append(
            "Activations are those of XLA's program for CPUs; a GPU's or TPU's will "
            "differ, and only there --remat saves some."
        )
    return notes


def _teacher_is_largest(need: Need) -> bool:
    return 0 < need.held["teacher"] == max(need.held.values())
