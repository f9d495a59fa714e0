"""Where images come from, and how they become batches."""

from ommatid.data.augment import MEAN, STD, Augmentation, ImageTransform, batch_mix, eval_transform, train_transform
from ommatid.data.calibration import calibration_images
from ommatid.data.classification import ImageData, open_data, open_evaluation
from ommatid.data.errors import DataError, Skipped
from ommatid.data.images import Images, open_images
from ommatid.data.loader import Loader, make_loader
from ommatid.data.picture_samples import PictureSamples
from ommatid.data.pictures import (
    PictureData,
    make_patch_loader,
    make_picture_loader,
    open_picture_evaluation,
    open_pictures,
)
from ommatid.data.samples import Samples

__all__ = [
    "MEAN",
    "STD",
    "Augmentation",
    "DataError",
    "ImageData",
    "ImageTransform",
    "Images",
    "Loader",
    "PictureData",
    "PictureSamples",
    "Samples",
    "Skipped",
    "batch_mix",
    "calibration_images",
    "eval_transform",
    "make_loader",
    "make_patch_loader",
    "make_picture_loader",
    "open_data",
    "open_evaluation",
    "open_images",
    "open_picture_evaluation",
    "open_pictures",
    "train_transform",
]
