"""What can take the place of a plain transformer's `Trunk` to save work: one file per idea."""
