"""Recipes: how a model is trained, as small files to read and to copy."""

from ommatid.training.recipes.recipe import AUTO, PRECISIONS, Recipe, list_recipes, load_recipe

__all__ = ["AUTO", "PRECISIONS", "Recipe", "list_recipes", "load_recipe"]
