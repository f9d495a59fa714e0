"""Images as a fixating eye has them: sharp where it looks, blurred or mere texture away from there.

"Emergent Properties of Foveated Perceptual Systems" (arXiv 2006.07991). A fixed transform in front of any classifier;
where the eye looks is an `ommatid.ops.log_polar.LogPolar`.
"""

from __future__ import annotations

from ommatid.methods.foveation.blur import FoveatedBlur, foveated_blur
from ommatid.methods.foveation.codec import ImageCodec
from ommatid.methods.foveation.colour import coral
from ommatid.methods.foveation.texture import eccentricity_alphas, foveated_texture, region_masks, textured_image

__all__ = [
    "FoveatedBlur",
    "ImageCodec",
    "coral",
    "eccentricity_alphas",
    "foveated_blur",
    "foveated_texture",
    "region_masks",
    "textured_image",
]
