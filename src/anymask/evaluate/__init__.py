"""Metrics and zero-shot evaluations."""
