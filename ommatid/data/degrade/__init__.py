"""What spoils a picture on its way, done on purpose: the degradations that restoration networks learn to undo."""

from ommatid.data.degrade.spec import Degradation, parse

__all__ = ["Degradation", "parse"]
