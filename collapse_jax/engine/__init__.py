"""Runs chains through generations on devices."""
