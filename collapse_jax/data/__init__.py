"""Data sets as NumPy arrays and text: located, verified and loaded without JAX."""
