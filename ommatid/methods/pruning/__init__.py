"""Fewer weights for the same answer: criteria, patterns, schedules, local and structural pruning."""
