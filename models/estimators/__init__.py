"""Estimators of log p(x) and of gradients."""
