"""SHViT and EfficientViT against the mobile networks of their papers, which timm has: 16 images, float32.

python benchmarks/claims/published_speeds.py
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import timm
import torch
from claim import parser, processor_seconds, report, verdict
from torch import nn

from ommatid.measuring.timing import Call
from ommatid.models import create_model

# Ours, timm's, the sides of their images, how many times faster the paper says, where, and by what.
CLAIMS = [
    ("shvit_s4", "mobilevitv2_100", 256, 256, 8.1, "SHViT (arXiv 2401.16456), CPU", "torch"),
    ("efficientvit_m2", "mobilevit_xxs", 224, 256, 3.7, "EfficientViT (arXiv 2305.07027), CPU", "torch"),
    ("efficientvit_m2", "mobilevit_xxs", 224, 256, 7.4, "EfficientViT (arXiv 2305.07027), ONNX", "onnx"),
    ("efficientvit_m5", "mobilenetv3_large_100", 224, 224, 1.45, "EfficientViT (arXiv 2305.07027), CPU", "torch"),
]


def as_torch(model: nn.Module, image: torch.Tensor) -> Call:
    return partial(model, image)


def as_onnx(model: nn.Module, image: torch.Tensor) -> Call:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model, (image,), path, dynamo=True, input_names=["image"], external_data=False, verbose=False
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait would be counted as work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image.numpy()})


FORMS = {"torch": as_torch, "onnx": as_onnx}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=16)
    arguments = made.parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        return [row(*claim) for claim in CLAIMS]

    def row(
        ours: str, theirs: str, our_side: int, their_side: int, claimed: float, source: str, form: str
    ) -> tuple[str, str, str, str]:
        calls = [
            FORMS[form](create_model(ours).deploy(), torch.rand(arguments.batch, 3, our_side, our_side)),
            FORMS[form](timm.create_model(theirs).eval(), torch.rand(arguments.batch, 3, their_side, their_side)),
        ]
        with torch.inference_mode():
            mine, other = processor_seconds(calls, rounds=arguments.rounds, seconds=arguments.seconds)
        ratio = other / mine
        claim = f"{ours} as fast as {theirs}, {'ONNX Runtime' if form == 'onnx' else 'eager'}: {source}"
        found = f"{ratio:.2f} times ({1e3 * mine:.1f} ms against {1e3 * other:.1f} ms, batch {arguments.batch})"
        return claim, f"{claimed} times", found, verdict(ratio, claimed)

    report(arguments, rows)


if __name__ == "__main__":
    main()
