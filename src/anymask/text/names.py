"""The names of ImageNet's 1,000 classes as phrases, and their embeddings, which ship as `names.npy`.

Run as a module it writes that file anew, for another sentence model or other phrases; a test compares them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anymask.core.errors import MissingExtraError
from anymask.text.embedders import embed_texts

WORN = frozenset(
    """academic gown,apron,abaya,backpack,ballplayer,bathing cap,bikini,bow tie,brassiere,bulletproof vest,cardigan,
    cloak,cowboy hat,crash helmet,diaper,football helmet,fur coat,gown,groom,hoopskirt,jean,jersey,kimono,lab coat,
    maillot,military uniform,miniskirt,mortarboard,overskirt,pajama,poncho,running shoe,sarong,scuba diver,ski mask,
    sombrero,stole,suit,sunglasses,sweatshirt,swimming trunks,trench coat,vestment,wig,Windsor tie""".replace(
        "\n    ", ""
    ).split(",")
)  # ImageNet has no class for people, but many for what they wear


def class_phrases() -> list[str]:
    """One phrase for each class, in ImageNet's order."""
    try:
        from torchvision.models import EfficientNet_B0_Weights
    except ImportError as error:
        raise MissingExtraError("the class names come with: pip install torchvision") from error
    names = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    return [f"person wearing {name}" if name in WORN else name for name in names]


if __name__ == "__main__":
    np.save(Path(__file__).with_name("names.npy"), embed_texts(class_phrases()).astype(np.float16))
