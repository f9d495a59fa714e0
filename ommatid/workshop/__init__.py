"""Pages to play with: a workshop where a model is composed, and a page where a trained one looks at images."""
