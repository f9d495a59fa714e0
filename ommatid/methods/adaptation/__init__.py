"""Training on pictures without labels, of another kind than those with labels."""
