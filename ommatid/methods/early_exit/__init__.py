"""Leaving early: each function takes a trained model and gives one that stops where more layers change little."""
