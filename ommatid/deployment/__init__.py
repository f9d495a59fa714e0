"""Making a trained model fast, and taking it elsewhere."""
