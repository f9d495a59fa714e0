"""Several trained models become one of the same cost."""
