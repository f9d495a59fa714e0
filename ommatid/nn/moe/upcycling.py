"""From one feed-forward layer to many: experts that start as copies of it, so that at first nothing changes.

"Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints" (arXiv 2212.05055).
"""

from __future__ import annotations

from torch import nn

from ommatid.nn.conv_glu import ConvGLU, GatedConvMLP
from ommatid.nn.feedforward import MLP, ConvMLP, SwiGLU
from ommatid.nn.moe.experts import stack
from ommatid.nn.moe.layer import MapMoE, MoE
from ommatid.nn.moe.routers import TopKRouter, require_top_k
from ommatid.nn.moe.routing import Dispatch, Routing

OF_TOKENS: tuple[type[nn.Module], ...] = (MLP, SwiGLU)
"""Feed-forward layers that treat every token by itself: each token chooses its experts."""

OF_MAPS: tuple[type[nn.Module], ...] = (ConvMLP, ConvGLU, GatedConvMLP)
"""Those that look at neighbours: each image chooses its experts."""

TOKEN_MIXERS = "ommatid.nn.mixers."
"""Where feed-forward layers are parts of token mixers, and stay as they are."""


class UnitWeights(Dispatch):
    """Nothing is dropped, and weights of a token sum to 1, with the gradient that they had before: the value of a
    single weight says nothing then, but its router is still trained.
    """

    def forward(self, routing: Routing) -> Routing:
        return routing._replace(weights=routing.weights / routing.weights.detach().sum(-1, keepdim=True))


def upcycle_(model: nn.Module, *, experts: int, top_k: int, every: int) -> int:
    """Replaces every so many-th feed-forward layer by experts that are copies of it; how many were replaced.

    Layers count in the order of the model; of every `every`, the last is replaced.

    Raises:
        ValueError: numbers that are not possible, or a model without such layers.
    """
    require_top_k(top_k, experts)
    if every < 1:
        raise ValueError(f"every = {every} is not possible: allowed is a positive integer")
    layers = feed_forwards(model)
    chosen = layers[every - 1 :: every]
    if not chosen:
        kinds = ", ".join(kind.__name__ for kind in (*OF_TOKENS, *OF_MAPS))
        found = f"{len(layers)} feed-forward layers" if layers else "none"
        raise ValueError(
            f"{type(model).__name__} has {found}: allowed is a model with at least {every} of the kinds {kinds}"
        )
    made = {layer: mixture_of_copies(layer, experts, top_k) for layer in chosen}
    for owner in list(model.modules()):
        for name, part in owner.named_children():
            if part in made:
                setattr(owner, name, made[part])
    return len(made)


def feed_forwards(model: nn.Module) -> list[nn.Module]:
    """The model's channel mixers that can become experts, in order."""
    inside_mixers = {
        part for mixer in model.modules() if type(mixer).__module__.startswith(TOKEN_MIXERS) for part in mixer.modules()
    }
    return [part for part in model.modules() if type(part) in (*OF_TOKENS, *OF_MAPS) and part not in inside_mixers]


def mixture_of_copies(layer: nn.Module, experts: int, top_k: int) -> MoE:
    """E copies of a feed-forward layer under a fresh router."""
    out = layer.fc2
    assert isinstance(out, nn.Linear)
    logits = nn.Linear(out.out_features, experts, bias=False)
    nn.init.trunc_normal_(logits.weight, std=0.02)
    router = TopKRouter(logits, experts, top_k)
    kind = MoE if isinstance(layer, OF_TOKENS) else MapMoE
    mixture = kind(router, stack(layer, experts), dispatch=UnitWeights())
    return mixture.to(out.weight.device, out.weight.dtype).train(layer.training)
