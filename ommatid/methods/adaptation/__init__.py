"""A trained model learns something new: other tasks, pictures of another kind without labels, what it meets in use."""
