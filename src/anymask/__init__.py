"""anymask: Segment Anything, whole and open.

Public names load on first use (PEP 562), so that `import anymask` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SamAutomaticMaskGenerator": "anymask.predict.automatic",
    "SamPredictor": "anymask.predict.predictor",
    "Sam": "anymask.model.sam",
    "build_sam": "anymask.model.presets",
    "sam_around": "anymask.model.presets",
    "sam_model_registry": "anymask.weights.load",
    "load_model": "anymask.weights.load",
    "place": "anymask.model.precision",
    "read_image": "anymask.core.images",
    "ResizeLongestSide": "anymask.predict.transforms",
    "AnymaskError": "anymask.core.errors",
}
__all__ = [
    "AnymaskError",
    "ResizeLongestSide",
    "Sam",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "build_sam",
    "load_model",
    "place",
    "read_image",
    "sam_around",
    "sam_model_registry",
]

if TYPE_CHECKING:
    from anymask.core.errors import AnymaskError
    from anymask.core.images import read_image
    from anymask.model.precision import place
    from anymask.model.presets import build_sam, sam_around
    from anymask.model.sam import Sam
    from anymask.predict.automatic import SamAutomaticMaskGenerator
    from anymask.predict.predictor import SamPredictor
    from anymask.predict.transforms import ResizeLongestSide
    from anymask.weights.load import load_model, sam_model_registry


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anymask' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
