"""One file per verb of the command line; each is a Python function with the same words."""
