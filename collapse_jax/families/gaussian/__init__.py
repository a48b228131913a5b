"""Gaussians of any dimension."""
