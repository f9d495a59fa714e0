"""Copies of one model become the experts of one, and the batches that make the copies different."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.multiplet_upcycling import (
    contrastive_loss,
    freeze_all_but,
    k_means,
    pseudo_labels,
    same_label_batches,
    upcycle_multiplet,
)
from ommatid.models.modules.clip_moe import ended_texts, stretched_positions
from ommatid.nn.feedforward import MLP
from ommatid.nn.moe import MoE, Router


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ommatid.create_model("vit", image_size=8, patch_size=4, dim=8, depth=3, heads=2, num_classes=3).eval()


def test_equal_copies_answer_as_the_model_does() -> None:
    model, image = vit(0), torch.rand(2, 3, 8, 8)
    mixture = upcycle_multiplet([model, vit(0), vit(0)], layers=2)
    assert sum(isinstance(module, MoE) for module in mixture.modules()) == 2
    torch.testing.assert_close(mixture(image), model(image))
    assert upcycle_multiplet([model, vit(0)], layers=0).state_dict().keys() == model.state_dict().keys()


def test_experts_are_the_mlps_of_the_models_in_order() -> None:
    models = [vit(seed) for seed in range(3)]
    mixture = upcycle_multiplet(models, top_k=1)
    for layer, block in enumerate(mixture.blocks):
        for expert, model in enumerate(models):
            mlp = model.blocks[layer].channel.inner
            torch.testing.assert_close(block.channel.inner.experts.fc1.weight[expert], mlp.fc1.weight)
            torch.testing.assert_close(block.channel.inner.experts.fc2.bias[expert], mlp.fc2.bias)
    torch.testing.assert_close(mixture.head.weight, models[0].head.weight)


def test_models_of_other_shapes_are_refused() -> None:
    other = ommatid.create_model("vit", image_size=8, patch_size=4, dim=16, depth=3, heads=2, num_classes=3)
    with pytest.raises(ValueError, match="allowed is models of one architecture"):
        upcycle_multiplet([vit(0), other])
    with pytest.raises(ValueError, match="no plain MLP"):
        upcycle_multiplet([nn.Linear(2, 2)])


def test_stages_train_mlps_and_the_end_trains_routers() -> None:
    trained = {name for name, value in freeze_all_but(vit(0), MLP).named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in vit(0).named_parameters() if ".fc" in name}
    mixture = freeze_all_but(upcycle_multiplet([vit(0), vit(1)]), Router)
    trained = {name for name, value in mixture.named_parameters() if value.requires_grad}
    assert trained == {f"blocks.{layer}.channel.inner.router.logits.weight" for layer in range(3)}


def test_labels_are_shared_where_no_clustering_told_samples_apart() -> None:
    clusters = [torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 2, 0])]
    labels = pseudo_labels(clusters, [2, 3])
    assert labels.tolist() == [2, 2, 5, 3]


def test_batches_are_full_of_one_label_and_take_turns() -> None:
    labels = torch.tensor([0] * 7 + [1] * 4 + [2])
    batches = list(same_label_batches(labels, 2))
    assert [labels[batch].unique().tolist() for batch in batches] == [[0], [1], [0], [1], [0]]
    seen = [index for batch in batches for index in batch]
    assert len(seen) == len(set(seen)) == 10


def test_k_means_finds_what_lies_apart() -> None:
    torch.manual_seed(0)
    groups = torch.arange(3).repeat(20)
    features = 10 * torch.eye(3)[groups] + torch.randn(60, 3)
    found = k_means(features, 3, batch=40)
    assert len({(int(group), int(cluster)) for group, cluster in zip(groups, found, strict=True)}) == 3
    with pytest.raises(ValueError, match="from 1 to the number of samples"):
        k_means(features, 61)


def test_pairs_that_match_have_the_lower_loss() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 8)
    assert contrastive_loss(features, 2 * features, 4.6) < contrastive_loss(features, features.roll(1, 0), 4.6)


def test_stretched_positions_keep_the_first_and_go_on_past_the_last() -> None:
    table = torch.arange(77.0)[:, None]
    stretched = stretched_positions(table)
    assert stretched.shape == (248, 1)
    assert stretched[:21, 0].tolist() == list(range(21))
    torch.testing.assert_close(stretched[20:, 0], 20 + torch.arange(228) / 4)


def test_texts_are_read_up_to_their_end() -> None:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 2, "embed_dim": 6, "num_experts": 3, "moe_layers": 1, "vocab_size": 12}
    text = ommatid.create_model("clip_moe", function="text", **sizes).eval()
    ids = ended_texts(torch.randint(11, (2, 8)), 11)
    assert ids.argmax(1).tolist() == [7, 4]
    assert (ids[1, 5:] == 0).all()
    changed = ids.masked_fill(torch.arange(248) > 7, 5)
    torch.testing.assert_close(text(changed), text(ids))
    torch.testing.assert_close(text(ids[:, :8]), text(ids))
