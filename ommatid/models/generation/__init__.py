"""Networks that make pictures: one file per published family."""
