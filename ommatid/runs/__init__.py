"""What trainings and comparisons leave in folders, and how it is read again."""
