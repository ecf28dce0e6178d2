"""compressed-tensors folders."""
