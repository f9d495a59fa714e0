"""Diversified multiplet upcycling: several fine-tuned copies of one model become the experts of a single one.

"CLIP-MoE: Towards Building Mixture of Experts for CLIP with Diversified Multiplet Upcycling" (arXiv 2409.19291). Stage
by stage: cluster what the current copy makes of the data (`k_means`, `pseudo_labels`), then fine-tune the MLPs of a
fresh copy (`freeze_all_but`) on batches that no clustering tells apart (`same_label_batches`). At last
`upcycle_multiplet`, and fine-tune the routers alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.config import require, require_positive
from ommatid.models.modules.clip_moe import CLIPMoEConfig, CLIPVision, routed_outputs
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part
from ommatid.nn.feedforward import MLP
from ommatid.nn.moe import MoE, TopKRouter, any_choice_balance, stack

LABEL_SMOOTHING = 0.1


def pseudo_labels(clusters: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One label (n,) from the clusterings (n,) of all stages and modalities, the oldest first.

    Two samples have the same label where no clustering has ever told them apart. counts: of clusters in each.
    """
    label = torch.zeros_like(clusters[0])
    for cluster, count in zip(clusters, counts, strict=True):
        label = label * count + cluster
    return label


@torch.no_grad()
def k_means(features: Tensor, clusters: int, *, steps: int = 500, batch: int = 1_000_000, seed: int = 0) -> Tensor:
    """The cluster (n,) of each of the features (n, d), by mini-batch k-means (Sculley, WWW 2010).

    Centres begin at samples far from each other (k-means++); it ends early where they no longer move.
    """
    require(0 < clusters <= len(features), "clusters", clusters, f"from 1 to the number of samples ({len(features)})")
    generator = torch.Generator().manual_seed(seed)
    centres = spread_centres(features, clusters, generator)
    seen = features.new_zeros(clusters)
    for _ in range(steps):
        drawn = features[torch.randperm(len(features), generator=generator)[:batch].to(features.device)]
        nearest = F.one_hot(torch.cdist(drawn, centres).argmin(1), clusters).to(features)
        counts = nearest.sum(0)
        seen += counts
        moved = centres + (nearest.T @ drawn - counts[:, None] * centres) / seen.clamp(min=1)[:, None]
        if (moved - centres).square().sum() < 1e-5 * features.var(0).sum():
            break
        centres = moved
    return torch.cdist(features, centres).argmin(1)


def spread_centres(features: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Samples (clusters, d), each drawn with a chance that grows with the squared distance to those before it."""
    centres = features[torch.randint(len(features), (1,), generator=generator).to(features.device)]
    while len(centres) < clusters:
        distance = torch.cdist(features, centres).min(1).values.square().cpu()
        chances = distance if distance.sum() > 0 else torch.ones_like(distance)
        centres = torch.cat([centres, features[torch.multinomial(chances, 1, generator=generator).to(features.device)]])
    return centres


def same_label_batches(labels: Tensor, batch: int, *, seed: int = 0) -> Iterator[list[int]]:
    """Full batches of samples with one label, label after label in turns until all have run out.

    Samples that fill no batch are left out.
    """
    require_positive(batch=batch)
    generator = torch.Generator().manual_seed(seed)
    queues = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten().cpu()
        order = members[torch.randperm(len(members), generator=generator)]
        queues.append([part.tolist() for part in order.split(batch) if len(part) == batch])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def contrastive_loss(image_features: Tensor, text_features: Tensor, log_scale: float | Tensor) -> Tensor:
    """How well the n pairs of features (n, d) find each other by their angle, both ways, labels smoothed: ()."""
    image, text = F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1)
    scores = torch.as_tensor(log_scale).exp() * image @ text.T
    targets = torch.arange(len(scores), device=scores.device)
    both = [F.cross_entropy(way, targets, label_smoothing=LABEL_SMOOTHING) for way in (scores, scores.T)]
    return (both[0] + both[1]) / 2


def freeze_all_but(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Leaves only the parameters inside parts of one kind to be trained: `MLP` in a stage, `Router` at the end."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, kind):
            module.requires_grad_(True)
    return model


def upcycle_multiplet(models: Sequence[nn.Module], *, top_k: int = 2, layers: int | None = None) -> nn.Module:
    """A copy of the first model in which all models' MLPs are experts, with fresh linear routers.

    Args:
        models: of one architecture, that differ in their plain MLPs; whatever else differs is the first one's.
        top_k: experts of a token, whose weights add up to 1.
        layers: how many MLPs become experts, the last ones; all where None.

    Raises:
        ValueError: no models, models of several architectures, or none with a plain MLP.
    """
    require(len(models) > 0, "models", len(models), "1 or more")
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    for shape in shapes:
        require(shape == shapes[0], "models", [type(model).__name__ for model in models], "models of one architecture")
    mixture = copy.deepcopy(models[0])
    places = [name for name, module in mixture.named_modules() if type(module) is MLP]
    if not places:
        raise ValueError(f"{type(mixture).__name__} has no plain MLP that could be an expert")
    for name in places[len(places) - layers if layers is not None else 0 :]:
        mixture.set_submodule(name, mixture_of([model.get_submodule(name) for model in models], top_k))
    return mixture


def mixture_of(mlps: Sequence[nn.Module], top_k: int) -> MoE:
    """MLPs of one shape as experts."""
    count, dim = len(mlps), mlps[0].get_parameter("fc1.weight").shape[1]
    router = TopKRouter(nn.Linear(dim, count, bias=False), count, top_k, normalize=True, balance=any_choice_balance)
    experts = stack(mlps[0], count)
    states = [mlp.state_dict() for mlp in mlps]
    experts.load_state_dict({name: torch.stack([state[name] for state in states]) for name in states[0]})
    return MoE(router, experts).to(mlps[0].get_parameter("fc1.weight"))


@register_part("clip_moe", "upcycle")
class Upcycle(Procedure):
    """image -> what the vision encoder made of `num_experts` dense ones answers, and what its routers thought."""

    config: CLIPMoEConfig

    def __init__(self, config: CLIPMoEConfig) -> None:
        super().__init__(config)
        dense = config.replace(function="vision", moe_layers=0)
        self.stages = nn.ModuleList(CLIPVision(dense) for _ in range(config.num_experts))
        routers = range(min(config.moe_layers, config.depth))
        self.gates = nn.ModuleList(nn.Linear(config.dim, config.num_experts, bias=False) for _ in routers)

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        mixture = upcycle_multiplet(list(self.stages), top_k=self.config.top_k, layers=len(self.gates))
        routers = [module.router for module in mixture.modules() if isinstance(module, MoE)]
        for router, gate in zip(routers, self.gates, strict=True):
            router.logits = gate
        return routed_outputs(mixture, image=image)


@register_part("clip_moe", "loss")
class Loss(Procedure):
    """image_features and text_features (n, d) -> loss (1,)."""

    config: CLIPMoEConfig

    def forward(self, image_features: Tensor, text_features: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": contrastive_loss(image_features, text_features, self.config.log_scale).view(1)}


@register_part("clip_moe", "pseudo_labels")
class PseudoLabels(Procedure):
    """image_clusters and text_clusters (stages, n) -> pseudo_labels (n,)."""

    config: CLIPMoEConfig

    def forward(self, image_clusters: Tensor, text_clusters: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        by_stage = torch.stack([text_clusters, image_clusters], dim=1).flatten(0, 1)
        counts = [self.config.clusters_per_modality] * len(by_stage)
        return {"pseudo_labels": pseudo_labels(list(by_stage), counts)}
