"""Learning from another model: its attention, its layers, its features or its answers beside the labels."""
