"""What pyramid's variants and published families of their size take for one small image, all in turns.

The processor's time of one thread, median: what other programs do at the time falls on all alike.

    python benchmarks/pyramid_latency.py --size 32
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ommatid.measuring.timing import alternate
from ommatid.models import create_model
from ommatid.models.registry import find

MODELS = (
    "pyramid_n",
    "pyramid_t",
    "pyramid_s",
    "efficientvit_m0",
    "pvt_v2_b0",
    "van_b0",
    "efficientmod_xxs",
    "unireplknet_a",
    "shvit_s1",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--seconds", type=float, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = torch.randn(1, 3, arguments.size, arguments.size)
    subjects = {name: deployed(name, arguments.size) for name in MODELS}
    with torch.inference_mode():
        calls = [lambda model=model: model(image) for model in subjects.values()]
        cpu = torch.device("cpu")
        times = alternate(calls, cpu, rounds=200, seconds=arguments.seconds, clock=time.process_time)
    print("| model | parameters | latency, ms |\n| --- | --- | --- |")
    for (name, model), milliseconds in zip(subjects.items(), 1e3 * np.median(times, axis=0), strict=True):
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"| {name} | {count / 1e6:.2f} M | {milliseconds:.2f} |")


def deployed(name: str, size: int) -> torch.nn.Module:
    return create_model(name, num_classes=10, **find(name)[0].config.fields_for(size)).eval().deploy()


if __name__ == "__main__":
    main()
