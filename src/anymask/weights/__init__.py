"""Weights: what exists, where it comes from, and how any file becomes a loaded model."""
