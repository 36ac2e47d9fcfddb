"""How fast networks are trained, kept beside what they learn."""

import contextlib
from typing import Any

from experiments._workdir import Run
from kdjax import train


class Speed:
    """Measures a training, without making its devices wait.

    Args:
      run: the run; the figures are in `speed/` of its directory.
      name: of the network.
      every: after how many steps they are found anew.
      examples: in a step.
      tokens: in an example, or None where there are none.
      flops: `flops()` of a step; asked only where the devices' peak is known.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        *,
        every: int,
        examples: int,
        tokens: int | None,
        flops: Any,
    ) -> None:
        """Start no clock yet: the first step compiles."""
        self._run, self._name = run, name
        peaks = [train.peak_flops(device) for device in run.devices]
        known = None not in peaks
        self._meter = train.Throughput(
            every=every,
            examples=examples,
            tokens=tokens * examples if tokens else None,
            flops=flops() if known else None,
            peak=sum(x for x in peaks if x) if known else None,
        )

    def see(self, step: int, seen: train.Metrics, steps: int) -> None:
        """Count a call of the step that has just been made."""
        found = self._meter(seen["loss"], steps)
        if found is None:
            return
        self._run.speeds.write(self._name, step, found)
        if self._run.options.log_every:
            self._run.say(f"{self._name}, step {step:,}: {said(found)}")

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """Leave out what is done inside."""
        return self._meter.pause()


def said(found: dict[str, float]) -> str:
    """Return what was measured as people read it.

    >>> said({"step_seconds": 0.002, "examples_per_second": 32000.0})
    '32,000 examples/s, 2.00 ms a step'
    """
    parts = [f"{found['examples_per_second']:,.0f} examples/s"]
    if "tokens_per_second" in found:
        parts.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    parts.append(f"{1000 * found['step_seconds']:.2f} ms a step")
    if "utilization" in found:
        parts.append(f"{100 * found['utilization']:.1f} % of the devices' peak")
    return ", ".join(parts)
