"""Whole architectures: the registry, the backbone contract, weights, and one file per published family."""

from ommatid.models.backbone import Backbone
from ommatid.models.config import Config
from ommatid.models.reference import LoadReport, load_reference
from ommatid.models.registry import Family, create_model, families, family_of, list_models, register
from ommatid.models.weights import load, save

__all__ = [
    "Backbone",
    "Config",
    "Family",
    "LoadReport",
    "create_model",
    "families",
    "family_of",
    "list_models",
    "load",
    "load_reference",
    "register",
    "save",
]
