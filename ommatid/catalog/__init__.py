"""The published systems: what they are called and how their numbers are checked."""
