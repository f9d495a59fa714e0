"""The encoder and decoder between which a foveated texture is made."""

from __future__ import annotations

from torch import Tensor, nn

ENCODER = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512)
"""VGG-19 up to the first convolution of its fourth group: widths of 3x3 convolutions, each with a ReLU."""

DECODER = (256, "up", 256, 256, 256, 128, "up", 128, 64, "up", 64)
"""The same backwards; one more convolution makes the image."""


class ImageCodec(nn.Module):
    """Images as features and back: (B, 3, H, W), from 0 to 1 -> (B, 512, H / 8, W / 8) -> (B, 3, H, W).

    As NeuroFovea (arXiv 1705.10041): a VGG-19, of which the mean activations are normalised, and a decoder trained to
    invert it. Trained weights do not come with it. All borders are mirrored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(3, ENCODER))
        self.decoder = nn.Sequential(*_layers(512, DECODER), _conv(64, 3))

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def decode(self, features: Tensor) -> Tensor:
        return self.decoder(features)

    def forward(self, image: Tensor) -> Tensor:
        """The reference of the study: an image that went through both."""
        return self.decode(self.encode(image)).clamp(0, 1)


def _layers(in_dim: int, plan: tuple[int | str, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, int):
            layers += [_conv(in_dim, step), nn.ReLU()]
            in_dim = step
        else:
            layers.append(nn.MaxPool2d(2, ceil_mode=True) if step == "pool" else nn.Upsample(scale_factor=2))
    return layers


def _conv(in_dim: int, dim: int) -> nn.Conv2d:
    return nn.Conv2d(in_dim, dim, 3, padding=1, padding_mode="reflect")
