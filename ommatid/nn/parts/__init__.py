"""Parts by name: token mixers, channel mixers, and what stands around them."""

from ommatid.nn.parts.part import Part, Place, Role
from ommatid.nn.parts.registry import add_part, build_part, channel_mixer, find_part, mixer, parts

__all__ = ["Part", "Place", "Role", "add_part", "build_part", "channel_mixer", "find_part", "mixer", "parts"]
