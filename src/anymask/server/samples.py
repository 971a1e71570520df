"""Photos to try, from scikit-image: free to use, and not shipped twice."""

from __future__ import annotations

import io

from anymask.core.errors import MissingExtraError
from anymask.server.schemas import Sample

_SAMPLES = {
    "cat": ("Chelsea the cat", "S. van der Walt, CC0"),
    "coffee": ("Coffee", "R. Pichler, CC0"),
    "astronaut": ("Astronaut", "NASA, public domain"),
    "rocket": ("Rocket", "SpaceX, CC0"),
}


def list_samples() -> list[Sample]:
    """The samples; none where scikit-image is not installed."""
    try:
        import skimage.data  # noqa: F401
    except ImportError:
        return []
    return [
        Sample(name=name, title=title, credit=credit, url=f"/api/samples/{name}.jpg")
        for name, (title, credit) in _SAMPLES.items()
    ]


def read_sample(name: str) -> bytes | None:
    """A sample as JPEG; None for an unknown name."""
    if name not in _SAMPLES:
        return None
    try:
        from skimage import data
    except ImportError as error:
        raise MissingExtraError("the sample photos come with: pip install 'anymask[sample]'") from error
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(getattr(data, name)()).save(encoded, "JPEG", quality=92)
    return encoded.getvalue()
