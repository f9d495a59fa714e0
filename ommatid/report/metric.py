"""What models are judged by, as pages and tables write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from ommatid.report.formats import MISSING, NARROW_SPACE, is_number, percent

Work = Literal["images", "megapixels"]


@dataclass(frozen=True)
class Metric:
    """A number of which more is better.

    key: its name in files. word: in sentences. better, best: of a model that has more, or most, of it. unit: "%" for a
    share from 0 to 1, else what is written behind it, if anything. near: how far from the best is still close to it.
    counted: whether it is a share of the images that are judged, which has a margin of chance.
    """

    key: str
    word: str
    better: str
    best: str
    unit: str
    near: float
    counted: bool = False

    @property
    def title(self) -> str:
        return self.word[0].upper() + self.word[1:]

    @property
    def axis(self) -> str:
        """Title of an axis."""
        return f"{self.title}, {self.unit}" if self.unit and not self.is_share else self.title

    @property
    def is_share(self) -> bool:
        """Whether it is written in per cent."""
        return self.unit == "%"

    def exact(self, value: float) -> str:
        """For a line in the terminal: 97.12%, 31.06 dB."""
        return f"{value:.2%}" if self.is_share else self._decimals(value, " ")

    def show(self, value: Any) -> str:
        """For a cell or a sentence on a page: 97.1 %, 31.06 dB; a dash for what was not measured."""
        if not is_number(value):
            return MISSING
        return percent(value) if self.is_share else self._decimals(value, NARROW_SPACE)

    def gap(self, difference: float) -> str:
        """A difference between two values in words: 1 point, 0.1 dB."""
        if not self.is_share:
            return f"{difference:g} {self.unit}".strip()
        points = 100 * difference
        return f"{points:g} point{'' if points == 1 else 's'}"

    def spread(self, deviation: float) -> str:
        """A standard deviation in the units of `gap`, without their name where they are points: ± 0.4, ± 0.12 dB."""
        return f"± {100 * deviation:.1f}" if self.is_share else f"± {self._decimals(deviation, ' ')}"

    def _decimals(self, value: float, space: str) -> str:
        return f"{value:.2f}{space}{self.unit}" if self.unit else f"{value:.4f}"


@dataclass(frozen=True)
class Yardstick:
    """In what the models of one task are compared.

    metrics: the first decides, the others are shown. work: what is counted per second.
    """

    metrics: tuple[Metric, ...]
    work: Work

    @property
    def judge(self) -> Metric:
        return self.metrics[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-like; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(tuple(Metric(**metric) for metric in values["metrics"]), values["work"])


ACCURACY = Metric("accuracy", "accuracy", "more accurate", "most accurate", unit="%", near=0.01, counted=True)
TOP5 = Metric("top5", "top 5", "more often among five", "most often among five", unit="%", near=0.01, counted=True)
CLASSIFIERS = Yardstick((ACCURACY, TOP5), "images")
"""Also what is meant by results that name no yardstick."""

PSNR = Metric("psnr", "PSNR", "of higher PSNR", "highest PSNR", unit="dB", near=0.1)
SSIM = Metric("ssim", "SSIM", "of higher SSIM", "highest SSIM", unit="", near=0.005)
RESTORERS = Yardstick((PSNR, SSIM), "megapixels")

MIOU = Metric("miou", "mIoU", "of higher mIoU", "highest mIoU", unit="%", near=0.01)
PIXEL_ACCURACY = Metric("pixel_accuracy", "pixel accuracy", "of more right pixels", "most right pixels", "%", near=0.01)
SEGMENTERS = Yardstick((MIOU, PIXEL_ACCURACY), "images")

AP = Metric("ap", "AP", "of higher AP", "highest AP", unit="%", near=0.01)
AP50 = Metric("ap50", "AP50", "of higher AP50", "highest AP50", unit="%", near=0.01)
AP75 = Metric("ap75", "AP75", "of higher AP75", "highest AP75", unit="%", near=0.01)
DETECTORS = Yardstick((AP, AP50, AP75), "images")
"""AP is COCO's: the mean over overlaps from 0.5 to 0.95, and over the classes."""

AGREEMENT = Metric("agreement", "agreement", "of higher agreement", "highest agreement", unit="%", near=0.01)
PRETRAINED = Yardstick((AGREEMENT,), "images")
"""How far what was guessed agrees with what was hidden: 1 - error / error of an empty guess."""

PQ = Metric("pq", "PQ", "of higher PQ", "highest PQ", unit="%", near=0.01)
SQ = Metric("sq", "SQ", "of higher SQ", "highest SQ", unit="%", near=0.01)
RQ = Metric("rq", "RQ", "of higher RQ", "highest RQ", unit="%", near=0.01)
PANOPTIC_SEGMENTERS = Yardstick((PQ, SQ, RQ), "images")
