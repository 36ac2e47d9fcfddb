"""Matching what is inside: feature maps and attention."""

__all__: list[str] = []
