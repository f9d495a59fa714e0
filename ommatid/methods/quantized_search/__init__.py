"""SimQ-NAS: sub-network and bit widths of its layers, searched together (arXiv 2312.13301)."""
