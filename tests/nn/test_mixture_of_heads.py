import torch

from ommatid.nn.mixture_of_heads import MixtureOfHeads, load_balance


def test_every_token_has_its_shared_heads_and_as_many_routed_ones_as_are_active():
    weights = MixtureOfHeads(dim=8, heads=7, shared=2, active=3)(torch.randn(2, 5, 8))
    assert weights.shape == (2, 5, 7)
    assert ((weights[..., :2] > 0).all(-1)).all()
    assert ((weights[..., 2:] > 0).sum(-1) == 3).all()


def test_weights_are_shared_out_so_that_heads_count_one_on_average():
    tokens = torch.randn(3, 8)
    torch.testing.assert_close(MixtureOfHeads(8, 4, shared=4, active=0)(tokens).sum(-1), torch.full((3,), 4.0))
    torch.testing.assert_close(MixtureOfHeads(8, 4, shared=0, active=2)(tokens).sum(-1), torch.full((3,), 2.0))


def test_balance_is_collected_where_there_are_routed_heads():
    tokens = torch.randn(3, 8)
    balance: list[torch.Tensor] = []
    MixtureOfHeads(8, 4, shared=4, active=0)(tokens, balance)
    assert balance == []
    MixtureOfHeads(8, 4, shared=1, active=2)(tokens, balance)
    assert [loss.shape for loss in balance] == [()]


def test_loss_is_least_where_experts_are_used_alike():
    chosen = torch.eye(4)
    torch.testing.assert_close(load_balance(torch.full((4, 4), 0.25), chosen), torch.tensor(1.0))
    crowded = torch.tensor([[1.0, 0, 0, 0]]).expand(4, -1)
    torch.testing.assert_close(load_balance(crowded, crowded), torch.tensor(4.0))
