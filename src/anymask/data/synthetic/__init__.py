"""Synthetic scenes with exact nested masks, from vector art and cut-outs."""

from anymask.data.synthetic.art import VectorArt, load_art
from anymask.data.synthetic.cutouts import Cutouts
from anymask.data.synthetic.scenes import LEVELS, Scene, SceneOptions, SyntheticScenes

__all__ = ["LEVELS", "Cutouts", "Scene", "SceneOptions", "SyntheticScenes", "VectorArt", "load_art"]
