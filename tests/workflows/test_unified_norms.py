"""A training from a model with unified norms goes on with them."""

from __future__ import annotations

from pathlib import Path

import ommatid
from ommatid.nn.unified_norm import UnifiedNorm


def test_a_training_goes_on_with_unified_norms(few_digits: Path, tmp_path: Path) -> None:
    shape = {"image_size": 16, "patch_size": 4, "dim": 16, "heads": 2, "depth": 2}
    start = ommatid.unify_norms(ommatid.create_model("vit", num_classes=3, **shape), warmup_iters=2)
    start.save(tmp_path / "start.safetensors")
    settings = {"recipe": "quick", "epochs": 1, "batch": 32, "size": 16, "progress": False}
    result = ommatid.train(few_digits, weights=tmp_path / "start.safetensors", out=tmp_path / "run", **settings)
    trained = ommatid.load(result.run / "best.safetensors")
    passes = [int(norm.iters) for norm in trained.modules() if isinstance(norm, UnifiedNorm)]
    assert len(passes) == 5
    assert len(set(passes)) == 1
    assert passes[0] > 0
