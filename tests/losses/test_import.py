"""`kdjax.losses` can be lifted out: it needs JAX and nothing of the Flax world."""

import subprocess
import sys


def test_losses_import_no_framework():
    code = "import sys, kdjax.losses; print(*{m.split('.')[0] for m in sys.modules})"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(out.stdout.split())
    assert "jax" in loaded
    assert "kdjax" in loaded
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "beartype"}
    assert not loaded & heavy
