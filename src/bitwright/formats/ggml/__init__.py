"""GGUF files: container, blocks of codes, metadata, importance matrices."""
