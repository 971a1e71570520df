"""anymask: Segment Anything, whole and open."""
__version__ = "0.1.0"
