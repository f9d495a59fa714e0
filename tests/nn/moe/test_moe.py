"""What holds for every mixture of experts, whoever routes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP, BatchNormMLP, SwiGLU
from ommatid.nn.moe import (
    ActivatedLinear,
    Capacity,
    ExpertChoiceRouter,
    GShardRouter,
    HashRouter,
    MoE,
    NoisyRouter,
    Router,
    StackedMixer,
    StackedMLP,
    TaskLogits,
    TemperatureRouter,
    TopKRouter,
    TreeRouter,
    balance_of,
    cosine_router,
    linear_router,
    mix_one_hot,
    mix_sorted,
    mixture_of_mlps,
    recorded_routings,
    sigmoid_router,
    stack,
)
from ommatid.nn.moe.dispatch import locations

DIM, EXPERTS, TOKENS = 12, 4, 30
MakeRouter = Callable[[int], Router]

ROUTERS: dict[str, MakeRouter] = {
    "linear": lambda experts: linear_router(DIM, experts, min(2, experts)),
    "linear top-1": lambda experts: linear_router(DIM, experts, 1),
    "cosine": lambda experts: cosine_router(DIM, experts, min(2, experts), inner_dim=6),
    "sigmoid": lambda experts: sigmoid_router(DIM, experts, min(2, experts)),
    "noisy": lambda experts: NoisyRouter(DIM, experts, min(2, experts)),
    "expert choice": lambda experts: ExpertChoiceRouter(DIM, experts, per_token=min(2, experts)),
    "hash": lambda experts: HashRouter(DIM, experts),
    "temperature": lambda experts: TemperatureRouter(ActivatedLinear(DIM, experts), experts, temperature=0.1),
    "tree": lambda experts: TreeRouter(DIM, experts, gamma=0.1),
    "gshard": lambda experts: GShardRouter(DIM, experts, min(2, experts)),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ROUTERS.values(), ids=ROUTERS.keys())
def make_router(request: pytest.FixtureRequest) -> MakeRouter:
    return request.param


@pytest.mark.parametrize("weigh_input", [False, True])
@pytest.mark.parametrize("factor", [None, 0.5, 100.0])
def test_sorting_gives_what_one_hot_products_give(
    make_router: MakeRouter, factor: float | None, weigh_input: bool
) -> None:
    router, experts = make_router(EXPERTS).eval(), StackedMLP(EXPERTS, DIM, 20)
    tokens = torch.randn(TOKENS, DIM, requires_grad=True)
    routing = router(tokens)
    if factor is not None:
        routing = Capacity(factor)(routing)
    answers = [mix(tokens, routing, experts, weigh_input=weigh_input) for mix in (mix_sorted, mix_one_hot)]
    sources = [tokens, *experts.parameters(), *(p for p in router.parameters() if p.requires_grad)]
    probe = torch.randn(TOKENS, DIM)
    grads = [torch.autograd.grad((a * probe).sum(), sources, retain_graph=True, allow_unused=True) for a in answers]
    torch.testing.assert_close(*answers)
    for mine, theirs in zip(*grads, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_one_expert_is_the_dense_layer() -> None:
    mlp = MLP(DIM, 20)
    moe = MoE(linear_router(DIM, 1, 1), stack(mlp, 1))
    x = torch.randn(2, 5, 3, DIM)
    torch.testing.assert_close(moe(x), mlp(x))


def test_copies_of_one_expert_are_the_dense_layer() -> None:
    mlp = MLP(DIM, 20)
    x = torch.randn(2, 5, 3, DIM)
    torch.testing.assert_close(MoE(linear_router(DIM, EXPERTS, 2), stack(mlp, EXPERTS))(x), mlp(x))


def test_permuted_experts_with_a_permuted_router_answer_the_same() -> None:
    moe = mixture_of_mlps(DIM, 20, experts=EXPERTS)
    permuted, order = copy.deepcopy(moe), torch.randperm(EXPERTS)
    for mine, theirs in zip(permuted.experts.parameters(), moe.experts.parameters(), strict=True):
        mine.data.copy_(theirs[order])
    permuted.router.logits.weight.data.copy_(moe.router.logits.weight[order])
    x = torch.randn(TOKENS, DIM)
    torch.testing.assert_close(permuted(x), moe(x))


def test_large_capacity_drops_nothing_in_any_order() -> None:
    moe, x = mixture_of_mlps(DIM, 20, experts=EXPERTS), torch.randn(TOKENS, DIM)
    expected = moe(x)
    for prioritized in (False, True):
        for alignment in (1, 16):
            moe.dispatch = Capacity(EXPERTS, prioritized=prioritized, alignment=alignment)
            torch.testing.assert_close(moe(x), expected)


def test_a_drop_keeps_earlier_tokens_or_the_more_probable_ones() -> None:
    router = TopKRouter(nn.Identity(), 2, 1)
    router.logits = nn.Linear(2, 2, bias=False)
    router.logits.weight.data.copy_(torch.eye(2))
    tokens = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    routing = router(tokens)
    assert Capacity(1.0)(routing).kept.flatten().tolist() == [True, True, False, False]
    assert Capacity(1.0, prioritized=True)(routing).kept.flatten().tolist() == [False, True, False, True]


def test_second_choices_come_behind_all_first_ones() -> None:
    experts = torch.tensor([[0, 1], [1, 0], [0, 1]])
    assert locations(experts, 2).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert locations(experts, 2, torch.tensor([2, 1, 0])).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_expert_choice_loads_all_experts_alike() -> None:
    routing = ExpertChoiceRouter(DIM, EXPERTS, per_token=2)(torch.randn(TOKENS, DIM))
    assert routing.load().tolist() == [TOKENS * 2 // EXPERTS] * EXPERTS


def test_hash_of_a_token_does_not_change() -> None:
    tokens = torch.randn(TOKENS, DIM)
    first, second = HashRouter(DIM, EXPERTS)(tokens), HashRouter(DIM, EXPERTS)(2 * tokens)
    assert torch.equal(first.experts, second.experts)
    assert len(first.experts.unique()) == EXPERTS


def test_a_task_changes_who_works() -> None:
    router = TopKRouter(TaskLogits(DIM, EXPERTS, tasks=2), EXPERTS, 1)
    moe = MoE(router, StackedMLP(EXPERTS, DIM, 20))
    x = torch.randn(TOKENS, DIM)
    answers = [moe(x, torch.tensor(task)) for task in (0, 1)]
    assert not torch.allclose(*answers)


@pytest.mark.parametrize("tokens", [1, 3, TOKENS])
def test_more_experts_than_tokens_and_a_single_token(make_router: MakeRouter, tokens: int) -> None:
    moe = MoE(make_router(7), StackedMLP(7, DIM, 20))
    for layer in (moe, MoE(moe.router, moe.experts, dispatch=Capacity(1.0))):
        x = torch.randn(tokens, DIM, requires_grad=True)
        answer = layer(x)
        answer.square().sum().backward()
        assert answer.shape == x.shape
        assert torch.isfinite(answer).all()
        assert torch.isfinite(x.grad).all()


def test_all_tokens_at_one_expert() -> None:
    moe = mixture_of_mlps(DIM, 20, experts=EXPERTS, top_k=1)
    moe.router.logits.weight.data.zero_()[2] = 5.0
    x = torch.rand(TOKENS, DIM)
    with recorded_routings(moe) as routings:
        answer = moe(x)
    assert routings[0].load().tolist() == [0, 0, TOKENS, 0]
    one = MLP(DIM, 20)
    one.load_state_dict({name: value[2] for name, value in moe.experts.state_dict().items()})
    torch.testing.assert_close(answer, routings[0].weights * one(x))
    moe.dispatch = Capacity(1.0)
    assert (moe(x)[8:] == 0).all()


def test_without_capacity_every_answer_is_zero() -> None:
    moe = MoE(linear_router(DIM, EXPERTS, 2), StackedMLP(EXPERTS, DIM, 20), dispatch=Capacity(0.1))
    x = torch.randn(4, DIM, requires_grad=True)
    answer = moe(x)
    answer.sum().backward()
    assert (answer == 0).all()
    assert all((p.grad == 0).all() for p in moe.parameters())


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="allowed is above 0"):
        Capacity(0.0)


@pytest.mark.parametrize("top_k", [0, EXPERTS + 1])
def test_top_k_must_fit_the_experts(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to the number of experts \\({EXPERTS}\\)"):
        linear_router(DIM, EXPERTS, top_k)


@pytest.mark.parametrize("dispatch", [None, Capacity(1.0, prioritized=True), Capacity(100.0)])
def test_a_token_that_is_no_number_spoils_no_other(dispatch: Capacity | None) -> None:
    moe = MoE(linear_router(DIM, EXPERTS, 2), StackedMLP(EXPERTS, DIM, 20), dispatch=dispatch).eval()
    x = torch.randn(TOKENS, DIM)
    x[5] = float("nan")
    others = torch.arange(TOKENS) != 5
    answer = moe(x)
    assert torch.isfinite(answer[others]).all()
    assert answer[5].isnan().all()


@pytest.mark.parametrize("mixer", [MLP(DIM, 20), MLP(DIM, 6, bias=False), SwiGLU(DIM, 20), nn.Linear(DIM, DIM)])
def test_stacked_copies_answer_as_their_original(mixer: nn.Module) -> None:
    rows, ends = torch.randn(TOKENS, DIM), torch.tensor([3, 3, 20, TOKENS], dtype=torch.int32)
    for experts in (stack(mixer, EXPERTS), StackedMixer(EXPERTS, mixer)):
        torch.testing.assert_close(experts(rows, ends), mixer(rows))


def test_balance_is_least_where_all_are_loaded_alike() -> None:
    router = linear_router(DIM, EXPERTS, 1)
    router.logits.weight.data.zero_()
    assert router(torch.randn(TOKENS, DIM)).balance.item() == pytest.approx(1.0)
    router.logits.weight.data[0] = 5.0
    assert router(torch.rand(TOKENS, DIM)).balance.item() == pytest.approx(EXPERTS, rel=0.01)


def test_routings_of_all_layers_are_recorded_in_order() -> None:
    model = nn.Sequential(mixture_of_mlps(DIM, 20, experts=3), nn.GELU(), mixture_of_mlps(DIM, 20, experts=5))
    with recorded_routings(model) as routings:
        model(torch.randn(TOKENS, DIM))
    assert [routing.scores.shape[1] for routing in routings] == [3, 5]
    balance_of(routings).backward()
    assert all(layer.router.logits.weight.grad is not None for layer in (model[0], model[2]))
    with recorded_routings(nn.Linear(2, 2)) as routings:
        pass
    assert balance_of(routings).item() == 0


def test_noise_is_for_training() -> None:
    router, tokens = linear_router(DIM, EXPERTS, 2, noise=1.0), torch.randn(TOKENS, DIM)
    assert not torch.equal(router(tokens).weights, router(tokens).weights)
    router.eval()
    assert torch.equal(router(tokens).weights, router(tokens).weights)


def test_routes_in_full_precision_under_autocast() -> None:
    moe, x = mixture_of_mlps(DIM, 20, experts=EXPERTS), torch.randn(TOKENS, DIM)
    expected = moe(x)
    with recorded_routings(moe) as routings, torch.autocast("cpu", torch.bfloat16):
        answer = moe(x)
    assert routings[0].scores.dtype == torch.float32
    torch.testing.assert_close(answer.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dispatch", [None, Capacity(1.0, prioritized=True)])
def test_can_be_exported(dispatch: Capacity | None) -> None:
    moe = MoE(linear_router(DIM, EXPERTS, 2), StackedMLP(EXPERTS, DIM, 20), dispatch=dispatch).eval()
    x = torch.randn(TOKENS, DIM)
    program = torch.export.export(moe, (x,)).module()
    torch.testing.assert_close(program(x), moe(x))


def test_gradients_are_those_of_finite_differences() -> None:
    moe = MoE(linear_router(6, 3, 3), StackedMLP(3, 6, 5)).double()

    def mix(x: Tensor) -> Tensor:
        return moe(x)

    assert torch.autograd.gradcheck(mix, torch.randn(4, 6, dtype=torch.float64, requires_grad=True), atol=1e-4)


def test_a_mixer_with_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm"):
        stack(BatchNormMLP(DIM, 20), EXPERTS)
