"""Folders of packed integers or levels: GPTQ, AWQ, bitsandbytes."""
