"""What one training is made of: settings, recipe, first weights, batches, optimiser, callbacks, and the loop."""
