"""Metrics: the same code while training and for finished artifacts."""
