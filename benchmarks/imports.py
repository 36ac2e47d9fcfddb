"""What `import kdjax.losses` costs beside `import jax, optax`; processes take turns.

python -m benchmarks.imports
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 9
STATEMENTS = {
    "jax and optax": "import jax, optax",
    "kdjax.losses": "import kdjax.losses",
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if number:  # the first fills the disk cache
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"  import {name:15}{1e3 * seconds:8.0f} ms")
    ratio = medians["kdjax.losses"] / medians["jax and optax"]
    print(f"  ratio                 {ratio:8.2f}")


if __name__ == "__main__":
    main()
