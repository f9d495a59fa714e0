"""Mixtures of experts: a router says who works on what, dispatch who has room, experts do the work.

moe = MoE(cosine_router(384, 8, 2), StackedMLP(8, 384, 1536), dispatch=Capacity(1.25, prioritized=True))
moe(x)  # (..., 384) -> (..., 384)
"""

from ommatid.nn.moe.balance import (
    any_choice_balance,
    first_choice_balance,
    load_importance_balance,
    no_balance,
)
from ommatid.nn.moe.compositions import ResidualMoE, SharedExpertMoE, pyramid_moe
from ommatid.nn.moe.dispatch import Capacity, Dropless
from ommatid.nn.moe.experts import StackedLinear, StackedMixer, StackedMLP, StackedSwiGLU, stack
from ommatid.nn.moe.gshard import GShardCapacity, GShardRouter
from ommatid.nn.moe.layer import MoE, mixture_of_mlps
from ommatid.nn.moe.logits import CosineLogits, TaskLogits
from ommatid.nn.moe.mixing import mix_one_hot, mix_sorted
from ommatid.nn.moe.momentum import AdamStep, HeavyBallStep, MomentumMoE, MomentumStack, RobustStep
from ommatid.nn.moe.routers import (
    ExpertChoiceRouter,
    HashRouter,
    NoisyRouter,
    TopKRouter,
    cosine_router,
    linear_router,
    sigmoid_router,
)
from ommatid.nn.moe.routing import Dispatch, Router, Routing, balance_of, recorded_routings
from ommatid.nn.moe.temperature import ActivatedLinear, TemperatureRouter, cooled
from ommatid.nn.moe.tree import LearnedPermutation, TreeRouter
from ommatid.nn.moe.tutel import tutel_moe

__all__ = [
    "ActivatedLinear",
    "AdamStep",
    "Capacity",
    "CosineLogits",
    "Dispatch",
    "Dropless",
    "ExpertChoiceRouter",
    "GShardCapacity",
    "GShardRouter",
    "HashRouter",
    "HeavyBallStep",
    "LearnedPermutation",
    "MoE",
    "MomentumMoE",
    "MomentumStack",
    "NoisyRouter",
    "ResidualMoE",
    "RobustStep",
    "Router",
    "Routing",
    "SharedExpertMoE",
    "StackedLinear",
    "StackedMLP",
    "StackedMixer",
    "StackedSwiGLU",
    "TaskLogits",
    "TemperatureRouter",
    "TopKRouter",
    "TreeRouter",
    "any_choice_balance",
    "balance_of",
    "cooled",
    "cosine_router",
    "first_choice_balance",
    "linear_router",
    "load_importance_balance",
    "mix_one_hot",
    "mix_sorted",
    "mixture_of_mlps",
    "no_balance",
    "pyramid_moe",
    "recorded_routings",
    "sigmoid_router",
    "stack",
    "tutel_moe",
]
