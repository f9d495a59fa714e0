"""Once for Both: importance and sparsity of a vision transformer's units, learned in one search (arXiv 2403.15835)."""
