"""How fast a training loop is, found without making the device wait."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax

from kdjax import checks


class Throughput:
    """A meter of a training loop: call it after every step.

    It looks which results are there and waits for none, so steps are dispatched as far
    ahead as without it. The first step, which compiles, is left out.

    Args:
      every: report after so many steps or, as soon as they are seen to be done, a few
        more.
      examples: examples of a step, in all processes together: the global batch.
      tokens: tokens of a step, likewise, or None.
      flops: floating-point operations of a step on all devices together, as
        `metrics.operations` counts them of `step.pure`; what rematerialisation computes
        again should not count. Or None.
      peak: what all devices together could do in a second, the sum of
        `peak_flops`; None where it is not known.

    Call:
      `meter(until, steps=1)` with an array that the step has computed, such as its loss
      (nothing of the state, which the next step donates), and how many steps that was
      (those of a `train.scan`) gives None or, at the end of an interval, what was
      measured in it: `step_seconds`, `examples_per_second`, with tokens
      `tokens_per_second`, and with FLOPs and peak `utilization`, the fraction of the
      peak. With several processes each measures for itself, and all about the same.

    Raises:
      ValueError: if a number is not positive, `every`, `examples` or `steps` is not an
        integer, or `until` is not an array of JAX.

    >>> meter = Throughput(every=1, examples=64)
    >>> loss = jax.numpy.zeros(()).block_until_ready()
    >>> meter(loss)  # the first step starts the clock
    >>> sorted(meter(loss))
    ['examples_per_second', 'step_seconds']
    """

    def __init__(
        self,
        *,
        every: int,
        examples: int,
        tokens: float | None = None,
        flops: float | None = None,
        peak: float | None = None,
    ) -> None:
        """Check the numbers; the clock starts with the first result."""
        checks.integer("Throughput", 1, every=every, examples=examples)
        checks.positive("Throughput", tokens=tokens, flops=flops, peak=peak)
        self._every = every
        self._per_step = {"examples_per_second": float(examples)}
        if tokens is not None:
            self._per_step["tokens_per_second"] = tokens
        if flops is not None and peak is not None:
            self._per_step["utilization"] = flops / peak
        self._running: deque[tuple[Any, int]] = deque()
        self._start: float | None = None
        self._done = 0

    def __call__(self, until: Any, steps: int = 1) -> dict[str, float] | None:
        """Count a call of the step, and report at the end of an interval."""
        checks.integer("Throughput", 1, steps=steps)
        if not hasattr(until, "is_ready"):
            raise ValueError(
                "Throughput: until must be an array that the step has computed, "
                f"got {type(until).__name__}"
            )
        self._running.append((until, steps))
        now = self._look()
        if self._start is None or self._done < self._every:
            return None
        step_seconds = (now - self._start) / self._done
        self._start, self._done = now, 0
        rates = {name: x / step_seconds for name, x in self._per_step.items()}
        return {"step_seconds": step_seconds, **rates}

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time of what is done inside, such as an evaluation or a save.

        It waits for the steps before it, whose state what is done inside will read.

        >>> meter = Throughput(every=100, examples=64)
        >>> with meter.pause():
        ...     pass  # evaluate(state.variables)
        """
        jax.block_until_ready([array for array, _ in self._running])
        began = self._look()
        try:
            yield
        finally:
            if self._start is not None:
                self._start += time.perf_counter() - began

    def _look(self) -> float:
        """Count the steps whose results are there by now, and return the time."""
        # An interval lasts from one look to another, and its steps are those that were
        # done in between: however far ahead the host is and whenever it looks, only
        # the step under way at either end is counted wrongly. Steps are done in their
        # order, so behind one that is not ready none is.
        now, seen = time.perf_counter(), 0
        while self._running and self._running[0][0].is_ready():
            seen += self._running.popleft()[1]
        if self._start is not None:
            self._done += seen
        elif seen:
            self._start = now
        return now


# Dense products in bf16, or in fp16 where there is no bf16 (V100, T4), in TFLOP/s.
_PEAK_TFLOPS = {
    # Of one TensorCore. Cloud TPU's documentation states those of a chip, which on v2,
    # v3, v4, v5p and 7x has two cores; JAX shows each as a device, or both as one.
    "TPU v2": 45 / 2,
    "TPU v3": 123 / 2,
    "TPU v4": 275 / 2,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459 / 2,
    "TPU v5p": 459 / 2,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 2307 / 2,
    # NVIDIA's data sheets, most of which state twice as much, for sparse matrices; the
    # H100 PCIe is in the white paper only.
    "Tesla V100-SXM2-16GB": 125,
    "Tesla V100-SXM2-32GB": 125,
    "Tesla V100-PCIE-16GB": 112,
    "Tesla V100-PCIE-32GB": 112,
    "Tesla T4": 65,
    "NVIDIA A10G": 70,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA L4": 121,
    "NVIDIA H100 80GB HBM3": 1979 / 2,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 1671 / 2,
    "NVIDIA H200": 1979 / 2,
    "NVIDIA H200 NVL": 1671 / 2,
    "NVIDIA B200": 4500 / 2,
}


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Return the dense matrix arithmetic that a device could do at most in a second.

    In bf16, or fp16 where there is no bf16, without sparsity, as its vendor states it:
    https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the pages of each
    version behind it (2025), the data sheets at https://www.nvidia.com/en-us/data-center
    (2017 to 2025), and "NVIDIA H100 Tensor Core GPU Architecture" (2022).

    Args:
      device: a JAX device, whose `device_kind` is looked up; None is the first one.

    Returns:
      Floating-point operations a second, a multiply-add as two, or None where the peak
      is not known: a CPU, a part of a GPU (MIG), a model that is not listed. Names must
      be equal, because one that only begins alike is another card: L4 and L40.

    >>> peak_flops(jax.devices("cpu")[0]) is None
    True
    """
    device = jax.devices()[0] if device is None else device
    teraflops = _PEAK_TFLOPS.get(device.device_kind)
    cores = getattr(device, "num_cores", 1) if device.platform == "tpu" else 1
    return None if teraflops is None else cores * teraflops * 1e12
