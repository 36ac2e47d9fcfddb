"""When to save: by the clock, and of several processes by that of the first."""

import time

from kdjax import processes


class Pace:
    """Tells, step by step, whether a time is over since it last was.

    Processes do not ask each other at every step: they look at the first one's clock
    about four times while the time goes by.

    Args:
      seconds: the time.
      step: where the steps begin.
    """

    def __init__(self, seconds: float, step: int) -> None:
        """Start the clock."""
        self._seconds, self._stride = seconds, 1
        self.reset(step)

    def reset(self, step: int) -> None:
        """Start the clock again."""
        self._began, self._since, self._look = time.monotonic(), step, step

    def is_over(self, step: int) -> bool:
        """Whether the time is over; of several processes, all get one answer."""
        if not processes.several():
            return time.monotonic() - self._began >= self._seconds
        if step < self._look:
            return False
        elapsed = processes.agreed(time.monotonic() - self._began)
        in_a_quarter = (step - self._since) * self._seconds / (4 * max(elapsed, 1e-3))
        self._stride = int(min(max(in_a_quarter, 1), 2 * self._stride))
        self._look = step + self._stride
        return elapsed >= self._seconds
