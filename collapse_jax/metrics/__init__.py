"""Measures of samples that more than one kind of model is judged by."""
