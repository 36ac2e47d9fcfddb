"""Plain NumPy float64 implementations, written from the formulas in the catalogue."""
