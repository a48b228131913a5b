"""Arithmetic that knows nothing of models: random draws, small matrices, affine frames."""
