"""EVA's pre-training: at hidden patches, say what a language-image model sees there.

"EVA: Exploring the Limits of Masked Visual Representation Learning at Scale" (arXiv 2211.07636). The backbone is in
models/backbones/eva.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pretraining.masked_encoder import MaskedEncoder
from ommatid.methods.pretraining.masking import lowest
from ommatid.models.backbones.eva import EVA, EVAConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part


def feature_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """How far predicted features (N, D) point from those of the teacher: -1 where they agree; ()."""
    return -F.cosine_similarity(prediction, target, dim=-1, eps=1e-8).mean()


class MaskedFeatureRegression(nn.Module):
    """Image (B, C_in, H, W) and hidden patches (B, h, w) -> features (N, target_dim) of the N hidden ones, in order.

    Args:
        network: a backbone without classifier and with a norm of its tokens (`mean_pooling` False).
        target_dim: of the teacher's features.
    """

    def __init__(self, network: EVA, target_dim: int) -> None:
        super().__init__()
        self.encoder = MaskedEncoder(network)
        self.head = nn.Linear(network.config.dim, target_dim)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        return self.head(self.encoder(image, hidden)[hidden])

    def loss(self, image: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
        """`target`: what the teacher sees at all patches, (B, h, w, target_dim); ()."""
        return feature_loss(self(image, hidden), target[hidden])


@register_part("eva", "pretrain")
class Pretraining(Procedure):
    """image, noise (B, L) and target (B, L, D) -> mask (B, L), prediction (N, D) and loss ()."""

    config: EVAConfig

    def __init__(self, config: EVAConfig) -> None:
        super().__init__(config)
        network = config.replace(function="classify", num_classes=0, mean_pooling=False, rope_grid=None)
        self.learner = MaskedFeatureRegression(EVA(network), config.target_dim)

    def forward(self, image: Tensor, noise: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        hidden = lowest(noise, int(self.config.mask_ratio * noise.shape[1]))
        prediction = self.learner(image, hidden.unflatten(1, self.config.patches))
        return {"mask": hidden.float(), "prediction": prediction, "loss": feature_loss(prediction, target[hidden])}
