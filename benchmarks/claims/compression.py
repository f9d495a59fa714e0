"""NViT's run time and DIMAP's parameters, and the accuracy that each keeps, on a small Swin trained on CIFAR-10.

    ommatid train CIFAR10/train --config benchmarks/claims/small_swin.yaml --out RUN    # Ctrl-C after epoch 5
    python benchmarks/claims/compression.py RUN CIFAR10/train

The base is trained for minutes, not to the end (for the rows of the table: 5 of its 8 epochs). Fine-tuning also goes on
with what training left, so it is compared with the original after as many further epochs.
"""

from __future__ import annotations

from pathlib import Path

from claim import parser, report, verdict

import ommatid

NVIT, DIMAP = 1.9, (0.33, 0.52)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("run", type=Path, help="of small_swin.yaml")
    made.add_argument("data")
    made.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    made.add_argument("--batch", type=int, default=32, help="images at a time in what is timed")
    made.add_argument("--out", type=Path, default=Path("runs/claims-compression"))
    arguments = made.parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        source = "small Swin on CIFAR-10"
        common = {"epochs": arguments.epochs, "batch": arguments.batch}
        faster = ommatid.compress(
            arguments.run,
            arguments.data,
            methods=["nvit"],
            target="latency<0.5x",
            settings=[0.5],
            out=arguments.out / "nvit",
            **common,
        )
        smaller = ommatid.compress(
            arguments.run,
            arguments.data,
            methods=["dimap"],
            target=f"parameters<{1 - DIMAP[1]:.2f}x",
            settings=[1 - share for share in DIMAP],
            out=arguments.out / "dimap",
            **common,
        )
        further = further_trained(arguments)
        original, pruned = faster.rows
        speed = 1 / pruned["latency_ratio"]
        found = [
            (
                f"As fast as before, structures pruned: NViT (arXiv 2110.04869), {source}",
                f"{NVIT} times, 0.1 points lost",
                f"{speed:.2f} times at batch {arguments.batch}, {told(original, pruned, further)}",
                kept(verdict(speed, NVIT), original, pruned),
            )
        ]
        for share, lost, row in zip(DIMAP, ("0.1", "0.2"), smaller.rows[1:], strict=True):
            fewer = 1 - row["parameters"] / original["parameters"]
            found.append(
                (
                    f"Fewer parameters ({share:.0%}), no images looked at: DIMAP (arXiv 2404.13648), {source}",
                    f"{share:.0%}, {lost} points lost",
                    f"{fewer:.0%}, {told(original, row, further)}; {row['latency_ratio']:.2f} times the time",
                    kept(verdict(fewer, share), original, row),
                )
            )
        return found

    report(arguments, rows)


def further_trained(arguments) -> float:
    """Accuracy of the original after as many further epochs, by the recipe of the fine-tuning."""
    out = arguments.out / "original"
    if (out / "config.yaml").is_file():
        return ommatid.train(resume=out).best_accuracy
    return ommatid.train(
        arguments.data,
        config=arguments.run / "config.yaml",
        recipe=arguments.out / "nvit" / "recipe.yaml",
        weights=arguments.run / "best.safetensors",
        out=out,
    ).best_accuracy


def kept(found: str, original: dict, row: dict) -> str:
    """The verdict, for which the accuracy must be kept too, to within a point."""
    lost = 100 * (original["accuracy"] - row["accuracy"])
    return found if lost <= 1 else f"not here: {lost:.1f} points lost after so short a fine-tuning"


def told(original: dict, row: dict, further: float) -> str:
    return (
        f"{row['accuracy_before']:.1%} right before and {row['accuracy']:.1%} after fine-tuning "
        f"(original {original['accuracy']:.1%}, further trained alike {further:.1%})"
    )


if __name__ == "__main__":
    main()
