"""Pages, tables and pictures made from results; knows dictionaries and numbers, never models."""
