"""Published families, one file each."""
