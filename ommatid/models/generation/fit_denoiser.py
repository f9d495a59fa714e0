"""FIT as a denoiser of diffusion over patches: latents also read the time and a condition.

"FIT: Far-reaching Interleaved Transformers" (arXiv 2305.12689). Its latents can be handed on to the next step of
sampling, as in "Scalable Adaptive Computation for Iterative Generation" (arXiv 2212.11972).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.models.modules.fit import require_groups
from ommatid.models.modules.fit_body import FITBody, FITConfig, init_xavier_uniform_
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual
from ommatid.nn.sine_position import split_waves

TIME_SPAN = 1000.0


class FITDenoiser(nn.Module):
    """Noisy patches (B, t, n, c) -> what the noise is to become (B, t, n, out_channels), and latents (B, t, m, E)."""

    def __init__(self, config: FITConfig) -> None:
        super().__init__()
        self.config = config
        dim, latent_dim, code = config.dim, config.latent_dim, config.latent_dim // 4
        self.stem = nn.Sequential(nn.Linear(config.in_channels, dim), LayerNorm(dim))
        self.time = nn.Sequential(nn.Linear(code, latent_dim), nn.SiLU(), nn.Linear(latent_dim, latent_dim))
        self.condition = nn.Linear(config.condition_channels, latent_dim)
        self.remember = remembering(latent_dim, config.mlp_ratio) if config.self_condition else None
        self.body = FITBody(config, context=True)
        self.head = nn.Linear(dim, config.out_channels)
        self.apply(init_xavier_uniform_)
        for layer in self.time:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(
        self, tokens: Tensor, time: Tensor, condition: Tensor, latents_previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            tokens: (B, t, n, c).
            time: (B,), from 0 to 1.
            condition: (B, s, condition_channels), s tokens.
            latents_previous: (B, t, m, E), the latents of the step before; with `self_condition` only.

        Raises:
            ValueError: the tokens come in other groups than the config says.
        """
        require_groups(self.config, tokens)
        context = torch.cat([self.time(self._code(time)).unsqueeze(1), self.condition(condition)], 1)
        remembered = None
        if self.remember is not None and latents_previous is not None:
            remembered = self.remember(latents_previous)
        x, latents = self.body(self.stem(tokens), remembered=remembered, context=context)
        return self.head(x), latents

    def _code(self, time: Tensor) -> Tensor:
        """(B,) -> (B, E / 4), of mean 0 and variance 1."""
        code = split_waves(time * TIME_SPAN, self.config.latent_dim // 4)
        return (code - code.mean(-1, keepdim=True)) / code.std(-1, keepdim=True, correction=0)


def remembering(dim: int, mlp_ratio: float) -> nn.Sequential:
    """(..., E) -> (..., E); at first 0."""
    norm = LayerNorm(dim)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(Residual(dim, MLP(dim, int(mlp_ratio * dim)), norm=LayerNorm), norm)


@register_part("fit", "denoiser")
class Denoising(Procedure):
    """A step of the network, with raw_time (B,) from -1 to 1 for times from 0 to 1."""

    config: FITConfig

    def __init__(self, config: FITConfig) -> None:
        super().__init__(config)
        self.network = FITDenoiser(config)

    def forward(  # type: ignore[override]
        self, tokens: Tensor, raw_time: Tensor, condition: Tensor, latents_previous: Tensor | None = None
    ) -> dict[str, Tensor]:
        output, latents = self.network(tokens, (raw_time + 1) / 2, condition, latents_previous)
        return {"output": output, "latents": latents}
