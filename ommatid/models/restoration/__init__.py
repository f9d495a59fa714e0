"""Restoration networks, one file per published family."""
