"""Projectors: from the features of a picture to the tokens that the language model reads. See `registry`."""

from vlmablate.vlm.projectors.base import Projector
from vlmablate.vlm.projectors.registry import PROJECTORS, build_projector

__all__ = ["PROJECTORS", "Projector", "build_projector"]
