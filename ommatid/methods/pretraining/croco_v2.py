"""Cross-view completion: the hidden patches of one view are guessed with the help of another view of the scene.

"CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion" (arXiv 2210.10716). The network is in
models/modules/croco_v2.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.methods.pretraining.pixels import hidden_patch_loss, normed_patches, patchify
from ommatid.models.modules.croco_v2 import CroCoConfig, CrossViewTransformer
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part
from ommatid.models.sizes import require_exactly
from ommatid.nn.init import init_xavier_uniform_
from ommatid.ops.rotary import grid_positions


def random_hidden(noise: Tensor, mask_ratio: float) -> Tensor:
    """Noise (B, N) -> booleans (B, N), True for int(mask_ratio N) patches of each row, chosen by the noise's order."""
    return noise.argsort(dim=1, stable=True) < int(mask_ratio * noise.shape[1])


class CrossViewCompletion(nn.Module):
    """Two views (B, 3, H, W), and hidden patches (B, N) of the first -> all patches of the first (B, N, 3 p^2).

    All rows of `hidden` have as many. `transformer` is what is kept afterwards.

    Args:
        transformer: encoder and decoder.
        norm_pixels: whether the values of a patch are guessed as they are normed by themselves.
    """

    def __init__(self, transformer: CrossViewTransformer, *, norm_pixels: bool = True) -> None:
        super().__init__()
        config = transformer.config
        self.patch_size, self.norm_pixels = config.patch_size, norm_pixels
        self.transformer = transformer
        self.token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        self.head = nn.Linear(config.decoder_dim, 3 * config.patch_size**2)
        nn.init.normal_(self.token, std=0.02)
        init_xavier_uniform_(self.head)

    def forward(self, image1: Tensor, image2: Tensor, hidden: Tensor) -> Tensor:
        return self.complete(image1, self.encoded(image2), hidden)

    def encoded(self, image: Tensor) -> Tensor:
        """A whole view (B, 3, H, W) -> (B, h, w, E)."""
        patches = self.transformer.patches(image)
        positions = grid_positions(patches.shape[1], patches.shape[2], device=image.device)
        return self.transformer.encode(patches.flatten(1, 2), positions)[-1].view(patches.shape)

    def complete(self, image: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
        """The first view, with the second as it was `encoded`."""
        network, patches = self.transformer, self.transformer.patches(image)
        batch, rows, columns, _ = patches.shape
        positions = grid_positions(rows, columns, device=image.device).expand(batch, -1, -1)
        visible = ~hidden
        seen, places = (values[visible].unflatten(0, (batch, -1)) for values in (patches.flatten(1, 2), positions))
        answer = network.embed(network.encode(seen, places)[-1])
        tokens = self.token.to(answer.dtype).expand(batch, rows * columns, -1)
        filled = tokens.index_put(torch.where(visible), answer.flatten(0, 1)).unflatten(1, (rows, columns))
        return self.head(network.decode(filled, network.embed(other))[-1])

    def loss(self, image1: Tensor, image2: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error of hidden patches: ()."""
        return self.loss_of(self(image1, image2, hidden), image1, hidden)

    def loss_of(self, answer: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """The same, of an answer that was given already."""
        patches = patchify(image, self.patch_size)
        return hidden_patch_loss(answer, normed_patches(patches) if self.norm_pixels else patches, hidden)


@register_part("croco_v2", "pretrain")
class Pretraining(Procedure):
    """image1, image2, noise (B, N) -> mask (B, N), encoded2 (B, N, E), prediction (B, N, 3 p^2) and loss ()."""

    config: CroCoConfig

    def __init__(self, config: CroCoConfig) -> None:
        super().__init__(config)
        self.learner = CrossViewCompletion(CrossViewTransformer(config), norm_pixels=config.norm_pixels)

    def forward(self, image1: Tensor, image2: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        for image in (image1, image2):
            require_exactly(image, self.config.image_size)
        hidden = random_hidden(noise, self.config.mask_ratio)
        other = self.learner.encoded(image2)
        prediction = self.learner.complete(image1, other, hidden)
        return {
            "mask": hidden.float(),
            "encoded2": other.flatten(1, 2),
            "prediction": prediction,
            "loss": self.learner.loss_of(prediction, image1, hidden),
        }
