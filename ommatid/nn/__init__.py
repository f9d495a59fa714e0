"""Parts of models: token mixers, channel mixers, embeddings, positions, residual branches."""
