"""Pre-training without labels: a network learns from what is hidden of its input, or from two views of it."""
