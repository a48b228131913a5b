"""Metrics of samples, independent of the kind of model."""
