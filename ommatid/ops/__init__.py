"""Functions on tensors, without parameters: each with a plain reference version and, where it pays, a fast one."""
