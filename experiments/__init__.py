"""Experiments, one command line each; README.md has a table of them."""
