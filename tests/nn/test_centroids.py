import torch

from ommatid.nn.mixers import RoutingAttention

TOKENS = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))


def trained() -> RoutingAttention:
    torch.manual_seed(0)
    return RoutingAttention(16, 2, 20, cluster_size=5, ema_decay=0.5)


def test_centroids_begin_as_tokens_and_follow_once_a_backward_pass() -> None:
    mixer = trained()
    centroids = mixer.routed.centroids
    random = centroids.means.clone()
    mixer(TOKENS)
    begun = centroids.means.clone()
    assert not torch.allclose(begun, random)
    torch.testing.assert_close(begun.norm(dim=-1), torch.ones(2, 4))
    mixed = mixer(TOKENS.flip(-1))
    assert torch.equal(centroids.means, begun)
    mixed.sum().backward()
    assert not torch.allclose(centroids.means, begun)
    assert centroids.collected is None


def test_centroids_stay_as_they_are_in_evaluation() -> None:
    mixer = trained().eval()
    before = mixer.routed.centroids.means.clone()
    mixer(TOKENS).sum().backward()
    assert torch.equal(mixer.routed.centroids.means, before)
    assert not mixer.routed.centroids.started


def test_the_loss_draws_tokens_towards_centroids() -> None:
    mixer = trained().eval()
    loss = mixer.with_auxiliary_loss(TOKENS)[1]
    loss.backward()
    with torch.no_grad():
        for layer in (mixer.routed.query, mixer.routed.key):
            layer.weight -= 100 * layer.weight.grad
    assert mixer.with_auxiliary_loss(TOKENS)[1] < loss
