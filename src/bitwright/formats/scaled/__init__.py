"""Folders of small floats beside their scales: HF/vLLM fp8, ModelOpt."""
