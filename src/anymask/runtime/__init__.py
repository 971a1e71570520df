"""Exported models as `Segmenter`s: the same answers without torch's modules."""
