"""Denoising by a trained network against scikit-image's non-local means, on pictures that neither was fitted to.

Every validation picture, whole, with white noise; non-local means is told the noise's strength and takes the settings
of its own documentation (h = 0.8 sigma, fast mode; h = 0.6 sigma, exact mode), of which the better one is shown.

    ommatid train photographs --task restoration --degrade "noise 25" --out runs/noise25
    python benchmarks/denoising.py runs/noise25 --sigma 25
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from ommatid.data.pictures import make_picture_loader, open_pictures
from ommatid.measuring.machine import describe_machine
from ommatid.runs.trained import open_restorer
from ommatid.tasks.restoration_metrics import psnr_y, ssim_y

RESULTS = Path(__file__).parent / "results" / "denoising.md"
NON_LOCAL = ({"h": 0.8, "fast_mode": True}, {"h": 0.6, "fast_mode": False})


def non_local_means(noisy: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """(1, 3, H, W) -> (1, 3, H, W), by whichever setting comes nearer to `clean`."""
    picture, found = noisy[0].permute(1, 2, 0).numpy(), []
    for setting in NON_LOCAL:
        strength = {"h": setting["h"] * sigma / 255, "fast_mode": setting["fast_mode"], "sigma": sigma / 255}
        denoised = denoise_nl_means(picture, patch_size=5, patch_distance=6, channel_axis=-1, **strength)
        found.append(torch.from_numpy(denoised).permute(2, 0, 1)[None].float())
    return max(found, key=lambda denoised: psnr_y(denoised, clean).item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run folder of a network trained on noise of this strength")
    parser.add_argument("--sigma", type=float, default=25.0, help="of the noise, of 255")
    arguments = parser.parse_args()
    network = open_restorer(arguments.run).model.eval()
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "nothing": lambda noisy, clean: noisy,
        "non-local means": lambda noisy, clean: non_local_means(noisy, clean, arguments.sigma),
        "network": lambda noisy, clean: network(noisy),
    }
    pictures = open_pictures("photographs", degrade=f"noise {arguments.sigma:g}").val
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    with torch.inference_mode():
        for noisy, clean in make_picture_loader(pictures, seed=0):
            for name, denoise in methods.items():
                restored = denoise(noisy, clean).clamp(0, 1)
                scores[name].append((psnr_y(restored, clean).item(), ssim_y(restored, clean).item()))
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
    lines = ["# Denoising against non-local means", "", f"{machine}.  "]
    lines += [f"White noise of {arguments.sigma:g} / 255 on {len(pictures)} pictures; luma.  "]
    lines += [f"Made by `python benchmarks/denoising.py RUN --sigma {arguments.sigma:g}`.", ""]
    lines += ["| method | PSNR, dB | SSIM |", "|---|---|---|"]
    for name, values in scores.items():
        psnr, ssim = (sum(column) / len(values) for column in zip(*values, strict=True))
        lines.append(f"| {name} | {psnr:.2f} | {ssim:.3f} |")
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
