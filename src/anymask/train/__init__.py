"""The paper's training algorithm."""
