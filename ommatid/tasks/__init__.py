"""What a model is trained for: target format, loss and metrics of each task."""
