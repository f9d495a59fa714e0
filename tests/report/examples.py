"""Realistic results, made from a formula: what `compare`, `evaluate` and `benchmark` hand to the pages."""

import base64
import io
import math
from typing import Any

from PIL import Image

HOSTILE = "<b>\"fish\" & 'chips'</b></script><script>alert(1)</script> $x_ 猫 %{x}"

# name, family, accuracy, latency, memory, parameters, MACs
MODELS = (
    ("swin_tiny", "swin", 0.978, 41.0, 412.0, 28_300_000, 4_500_000_000),
    ("convnext_tiny", "convnext", 0.976, 35.5, 388.0, 28_600_000, 4_470_000_000),
    ("fastvit_t8", "fastvit", 0.969, 9.8, 121.0, 4_030_000, 705_000_000),
    ("shvit_s1", "shvit", 0.971, 4.21, 96.0, 6_330_000, 241_000_000),
    ("mobilenetv4_small", "mobilenetv4", 0.962, 3.3, 74.0, 3_770_000, 190_000_000),
    ("efficientvit_b0", "efficientvit", 0.955, 3.9, 88.0, 3_400_000, 102_000_000),
    ("vit_tiny", "vit", 0.949, 12.4, 140.0, 5_720_000, 1_260_000_000),
)
MACHINE = {"processor": "Some CPU, 8 cores", "memory": "16 GB", "accelerator": "none", "torch": "2.15.0", "threads": 8}
SETTINGS = {
    "epochs": 12,
    "batch size": 64,
    "learning rate": 1e-3,
    "optimiser": "adamw",
    "augmentation": ["flip", "crop"],
}


def make_run(
    name: str, family: str, accuracy: float, latency: float, memory: float, parameters: int, macs: int
) -> dict[str, Any]:
    return {
        "model": name,
        "family": family,
        "seed": 0,
        "status": "done",
        "error": None,
        "accuracy": accuracy,
        "accuracy_std": None,
        "top5": min(1.0, accuracy + 0.02),
        "latency_ms": latency,
        "latency_spread_ms": [latency * 0.97, latency * 1.06],
        "throughput": 1800 / latency,
        "memory_mb": memory,
        "parameters": parameters,
        "macs": macs,
        "train_seconds": 30 * latency,
        "size_mb": parameters * 4 / 1e6,
        "run": f"runs/{name} seed 0/",
        "curve": [
            {
                "epoch": epoch,
                "train_loss": 2.2 * math.exp(-epoch / 3) + 0.05,
                "val_loss": 2.2 * math.exp(-epoch / 3.4) + 0.2 * (1.05 - accuracy) * epoch,
                "val_accuracy": accuracy * (1 - 0.8 * math.exp(-epoch / (2 + latency / 20))),
                "lr": 1e-3 * (1 - epoch / 12),
                "seconds": latency * 2.5,
            }
            for epoch in range(12)
        ],
    }


def failed_run(name: str, error: str) -> dict[str, Any]:
    return {
        "model": name,
        "family": name.split("_")[0],
        "seed": 0,
        "status": "failed",
        "error": error,
        "accuracy": None,
    }


def compare_results(runs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    error = "ValueError: image_size 225 is not a multiple of 32; allowed: 224, 256"
    return {
        "title": "Seven models on flowers",
        "data": {
            "origin": "pictures/flowers",
            "classes": ["daisy", "dandelion", "rose", "sunflower", "tulip"],
            "train": 3200,
            "val": 800,
            "skipped": [{"path": "rose/broken.jpg", "reason": "truncated file"}],
        },
        "machine": MACHINE,
        "settings": SETTINGS,
        "command": "ommatid compare pictures/flowers --models swin_tiny,convnext_tiny,fastvit_t8,shvit_s1 --epochs 12",
        "runs": [*(make_run(*model) for model in MODELS), failed_run("maxvit_tiny", error)] if runs is None else runs,
    }


def evaluate_result(size: int) -> dict[str, Any]:
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"][:size]
    classes += [f"class number {index}" for index in range(len(classes), size)]
    confusion = [
        [90 + i % 7 if i == j else (i * 7 + j * 3) % 11 // 8 * (1 + i % 3) for j in range(size)] for i in range(size)
    ]
    if size > 5:
        confusion[3][5], confusion[5][3] = 21, 14
    columns = [sum(row[i] for row in confusion) for i in range(size)]
    samples = sum(map(sum, confusion))
    per_class = []
    for index, name in enumerate(classes):
        right = confusion[index][index]
        precision, recall = right / columns[index], right / sum(confusion[index])
        f1 = 2 * precision * recall / (precision + recall)
        per_class.append(
            {"name": name, "precision": precision, "recall": recall, "f1": f1, "support": sum(confusion[index])}
        )
    return {
        "model": "shvit_s1",
        "data": "pictures/test",
        "samples": samples,
        "accuracy": sum(confusion[i][i] for i in range(size)) / samples,
        "top5": 0.995,
        "loss": 0.2514,
        "calibration_error": 0.031,
        "per_class": per_class,
        "confusion": confusion,
        "classes": classes,
        "machine": MACHINE,
        "settings": SETTINGS,
        "reliability": [
            {"confidence": 0.05 + 0.1 * i, "accuracy": max(0.0, 0.05 + 0.1 * i - 0.04 * math.sin(i)), "count": 4 * 2**i}
            for i in range(10)
        ],
        "mistakes": [
            {
                "image": data_uri(Image.linear_gradient("L").resize((32, 32)).rotate(40 * i)),
                "path": f"test/{classes[i % size]}/{i:04d}.png",
                "truth": classes[i % size],
                "prediction": classes[(i + 1) % size],
                "confidence": 0.99 - i / 100,
            }
            for i in range(8)
        ],
    }


def bench_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "parameters": parameters,
            "macs": macs,
            "latency_ms": latency,
            "latency_p25": 0.97 * latency,
            "latency_p75": 1.08 * latency,
            "throughput": 1000 / latency,
            "memory_mb": memory,
            "threads": 1,
            "batch": 1,
            "precision": "float32",
            "against": {
                "name": "timm",
                "latency_ms": latency * 1.25,
                "ratio": 0.8,
                "ratio_p25": 0.78,
                "ratio_p75": 0.83,
            }
            if index % 3
            else None,
        }
        for index, (name, _, _, latency, memory, parameters, macs) in enumerate(MODELS)
    ]


def data_uri(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def restore_result() -> dict[str, Any]:
    """Two pictures to look at, one of them also in part; and one in the list alone."""
    before, after = (data_uri(Image.new("RGB", (300, 200), colour)) for colour in ("#ff0000", "#0000ff"))
    whole = {"title": "The whole picture", "before": before, "after": after}
    small = {"before": (30, 20), "after": (60, 40), "seconds": 0.21, "notes": ()}
    large = {"before": (640, 480), "after": (1280, 960), "seconds": 12.5, "notes": ("CMYK became RGB",)}
    return {
        "model": "hat",
        "degrade": "bicubic x2",
        "restored": [
            {"name": f"{HOSTILE}.png", "views": [whole], **small},
            {"name": "deep/b.jpg", "views": [whole, whole | {"title": "The middle, pixel for pixel"}], **large},
            {"name": "c.png", "views": [], **small},
        ],
        "skipped": [{"path": f"{HOSTILE}.png", "reason": HOSTILE}],
        "settings": {"file": "run/best.safetensors", "tile": 256, "ensemble": False},
    }
