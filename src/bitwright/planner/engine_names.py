"""What engines are called in plans and deployments."""

from __future__ import annotations

LLAMA_CPP, OLLAMA = "llama.cpp", "ollama"
VLLM, SGLANG, TENSORRT_LLM, LMDEPLOY = "vllm", "sglang", "tensorrt-llm", "lmdeploy"
