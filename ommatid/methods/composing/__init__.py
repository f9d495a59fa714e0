"""Finding compositions of parts: what may be chosen, and what it may cost."""
