"""Suites of `experiments.benchmark`, one module each, and their common timing code."""
