"""What models of token sequences share: tokens are checked, 0 is padding."""

from jax import Array


def check_tokens(name: str, tokens: Array, length: int | None = None) -> None:
    """Raise unless the inputs are a batch of token sequences, at most so long."""
    kind = str(getattr(tokens, "dtype", type(tokens).__name__))
    if "int" not in kind:
        raise ValueError(f"{name}: inputs must be integer tokens, got {kind}")
    if tokens.ndim != 2 or (length is not None and tokens.shape[1] > length):
        most = "" if length is None else f" with at most {length} tokens (length=)"
        raise ValueError(
            f"{name}: inputs must be [batch, tokens]{most}, got {list(tokens.shape)}"
        )
