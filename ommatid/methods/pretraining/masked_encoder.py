"""A backbone that is shown a learned token instead of what is hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.methods.pretraining.masking import replaced
from ommatid.models.backbone import channels_last
from ommatid.models.backbones.eva import EVA
from ommatid.models.backbones.swin import Swin
from ommatid.models.backbones.swin_v2 import SwinV2
from ommatid.models.backbones.vit import ViT
from ommatid.nn.block import pyramid

Maskable = Swin | SwinV2 | EVA | ViT


class MaskedEncoder(nn.Module):
    """Image (B, C_in, H, W) and hidden patches (B, h, w) -> the last map (B, h', w', C), behind the final norm.

    All patches, hidden ones too, go through the whole backbone.

    Args:
        network: the backbone. It is itself afterwards, and can be saved and trained on.
        cut: at which values the token's normal distribution is cut.
    """

    def __init__(self, network: Maskable, *, cut: float = 2.0) -> None:
        super().__init__()
        self.network = network
        self.token = nn.Parameter(torch.zeros(1, 1, network.channels[0]))
        nn.init.trunc_normal_(self.token, std=0.02, a=-cut, b=cut)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        network, pixels = self.network, channels_last(image)
        if isinstance(network, EVA):
            patches = replaced(network.stem(pixels), hidden, self.token)
            return network.token_norm(network.mixed(patches))[:, 1:].unflatten(1, patches.shape[1:3])
        if isinstance(network, ViT):
            patches = replaced(network.stem(pixels), hidden, self.token)
            grid = (patches.shape[1], patches.shape[2])
            tokens = network.token_norm(network.blocks(network.sequence(patches), grid))
            return tokens[:, int(network.config.class_token) :].unflatten(1, grid)
        patches = replaced(network.stem.get_submodule("patches")(pixels), hidden, self.token)
        return network.norm(pyramid(network.stages, network.stem.get_submodule("position")(patches))[-1])
