"""Figures as pure functions: tensors in, a matplotlib Figure out."""
