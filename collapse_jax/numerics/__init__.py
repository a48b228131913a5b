"""Model-independent numerics: random draws, small matrices, affine frames, convolutions."""
