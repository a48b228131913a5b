"""Categorical distributions over symbols."""
