"""Fewer tokens: each function takes a trained model and gives one that reads fewer of them."""
