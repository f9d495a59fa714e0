"""What is done to a model or its training: each a function or a context that takes a model and gives a model."""
