import torch

import ommatid
from ommatid.models.backbones.moh import BALANCE_WEIGHT

TINY = {
    "dims": (8, 8, 8, 16),
    "heads": (2, 2, 2, 4),
    "depths": (1, 1, 1, 2),
    "mlp_ratios": (2, 2, 2, 2),
    "sr_ratios": (4, 2, 2, 1),
    "image_size": 64,
    "num_classes": 5,
}
ROUTED = {"shared_heads": (2, 2, 2, 1), "routed_heads": (0, 0, 0, 2)}
IMAGE = torch.randn(2, 3, 64, 64)


def test_the_auxiliary_loss_comes_with_the_logits_that_forward_gives():
    model = ommatid.create_model("moh", **ROUTED, **TINY).eval()
    logits, loss = model.with_auxiliary_loss(IMAGE)
    assert torch.equal(logits, model(IMAGE))
    assert loss.shape == ()
    # Each of the routed heads' probabilities is at most 1, and as many are chosen as are active.
    assert 0 < loss <= BALANCE_WEIGHT * 3


def test_only_the_routing_learns_from_it_alone_in_the_last_block():
    model = ommatid.create_model("moh", **ROUTED, **TINY).train()
    model.with_auxiliary_loss(IMAGE)[1].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    last = {name for name in learned if name.startswith("stages.3.blocks.1.token.inner.")}
    assert last == {"stages.3.blocks.1.token.inner.gate.route.weight"}


def test_without_routed_heads_there_is_nothing_to_add():
    model = ommatid.create_model("moh", shared_heads=TINY["heads"], routed_heads=(0, 0, 0, 0), **TINY)
    assert model.with_auxiliary_loss(IMAGE)[1] == 0


def test_most_architectures_add_nothing():
    model = ommatid.create_model("pvt_v2_b0", num_classes=3).eval()
    logits, loss = model.with_auxiliary_loss(IMAGE)
    assert torch.equal(logits, model(IMAGE))
    assert loss == 0
