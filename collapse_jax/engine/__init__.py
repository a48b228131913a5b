"""Chains through generations on devices."""
