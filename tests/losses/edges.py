"""Inputs at which careless code gives NaN: by name, `change(rng, array)`."""

import numpy as np


def _spread(rng, shape, size):
    return rng.choice(np.float32([-size, 0.0, 1.0, size]), size=shape)


def _onehot(rng, shape):
    hot = np.zeros(shape, np.float32)
    hot[np.arange(shape[0]), ..., rng.integers(0, shape[-1], shape[0])] = 1e4
    return hot


def _some(array, value):
    """Change every other row."""
    changed = array.copy()
    changed[::2] = value
    return changed


EDGES = {
    "large": lambda rng, a: _spread(rng, a.shape, 1e4),
    "onehot": lambda rng, a: _onehot(rng, a.shape) if a.ndim > 1 else a,
    "zero": lambda rng, a: np.zeros_like(a),
    "constant": lambda rng, a: np.full_like(a, 3.7),
    "tiny": lambda rng, a: np.float32(1e-30) * a,
    "huge": lambda rng, a: _spread(rng, a.shape, 3e38),
    "zero_rows": lambda rng, a: _some(a, 0.0),
    "twin_rows": lambda rng, a: _some(a, a[0]),
    "same_rows": lambda rng, a: np.broadcast_to(a[:1], a.shape).copy(),
    "zero_channels": lambda rng, a: _some(a.T, 0.0).T,
    "minus_inf": lambda rng, a: np.where(rng.random(a.shape) < 0.6, -np.inf, a),
}
