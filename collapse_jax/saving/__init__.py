"""Persistence: work directories, checkpoints, signals."""
