"""Foveated perception, as its reference cases ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.methods.foveation.blur import foveated_blur
from ommatid.methods.foveation.colour import coral
from ommatid.methods.foveation.texture import eccentricity_alphas, foveated_texture, region_alphas, region_masks
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.ops.gaussian_blur import gaussian_blur
from ommatid.ops.log_polar import LogPolar, pooled


@dataclass(frozen=True, kw_only=True)
class FoveatedPerceptionConfig(PartConfig):
    """`fixation` (row, column) to `outer_radius` are in pixels, and of "pooling", "foveated_blur" and "texture".

    `rate` is of "foveated_blur", `sigma` of "uniform_blur", `mask_threshold` and `alphas` (of each ring) of "texture",
    and what follows of "alpha": its areas are `max_area` times the input, taken from -1..1 to 0..1.
    """

    function: Literal["pooling", "foveated_blur", "uniform_blur", "texture", "alpha", "coral"] = "pooling"
    fixation: tuple[float, float] = (255.5, 255.5)
    rings: int = 9
    angles: int = 31
    inner_radius: float = 8.0
    outer_radius: float = 256.0
    rate: float = 0.1
    sigma: float = 1.0
    mask_threshold: float = 0.001
    alphas: tuple[float, ...] | None = None
    max_area: float = 20000.0
    degrees: float = 26.0
    pixels: int = 512
    slope: float = 1.281

    def check(self) -> None:
        require_positive(rings=self.rings, angles=self.angles, inner_radius=self.inner_radius)
        outside = self.outer_radius > self.inner_radius
        require(outside, "outer_radius", self.outer_radius, f"more than inner_radius ({self.inner_radius})")
        require_positive(rate=self.rate, sigma=self.sigma, max_area=self.max_area)
        require_positive(degrees=self.degrees, pixels=self.pixels, slope=self.slope)
        require(0 <= self.mask_threshold < 1, "mask_threshold", self.mask_threshold, "from 0 up to, not including, 1")
        if self.function == "texture":
            counted = self.alphas is not None and len(self.alphas) == self.rings
            require(counted, "alphas", self.alphas, f"one for each of the {self.rings} rings")

    @property
    def place(self) -> LogPolar:
        return LogPolar(
            fixation=self.fixation,
            rings=self.rings,
            angles=self.angles,
            inner_radius=self.inner_radius,
            outer_radius=self.outer_radius,
        )


@register("foveated_perception", FoveatedPerceptionConfig)
class Pooling(Procedure):
    """image (B, C, H, W) -> windows (N A, H, W) and the image's means over them, pooled (B, C, N A)."""

    config: FoveatedPerceptionConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        windows = self.config.place.windows((image.shape[2], image.shape[3]))
        return {"windows": windows, "pooled": pooled(image, windows)}


@register_part("foveated_perception", "foveated_blur")
class Blur(Procedure):
    """image (B, C, H, W) -> blurred (B, C, H, W), weights (N + 1, H, W) and sigmas (N,)."""

    config: FoveatedPerceptionConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return foveated_blur(image, self.config.place, self.config.rate)._asdict()


@register_part("foveated_perception", "uniform_blur")
class UniformBlur(Procedure):
    """image (B, C, H, W) -> blurred (B, C, H, W)."""

    config: FoveatedPerceptionConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"blurred": gaussian_blur(image, self.config.sigma)}


@register_part("foveated_perception", "texture")
class Texture(Procedure):
    """content and noise (B, C, H, W) -> features (B, C, H, W), and covered (H, W), 1 where a region is."""

    config: FoveatedPerceptionConfig

    def forward(self, content: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        masks = region_masks(config.place, (content.shape[2], content.shape[3]), config.mask_threshold)
        textured = foveated_texture(content, noise, masks, region_alphas(config.place, config.alphas or ()))
        return {"features": textured.features, "covered": textured.covered.to(content.dtype)}


@register_part("foveated_perception", "alpha")
class Alpha(Procedure):
    """image (K,), from -1 to 1, for areas of regions up to `max_area` -> alpha (K,)."""

    config: FoveatedPerceptionConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        areas = (image + 1) / 2 * config.max_area
        alphas = eccentricity_alphas(areas, degrees=config.degrees, pixels=config.pixels, slope=config.slope)
        return {"alpha": alphas}


@register_part("foveated_perception", "coral")
class Coral(Procedure):
    """source (3, h, w) and target (3, h', w') -> transferred (3, h, w)."""

    config: FoveatedPerceptionConfig

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"transferred": coral(source, target)}
