"""Data sets: found on disk, verified, and loaded as NumPy arrays; no JAX."""
