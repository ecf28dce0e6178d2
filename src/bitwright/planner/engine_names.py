"""What engines are called in plans and deployments."""

from __future__ import annotations

LLAMA_CPP, OLLAMA = "llama.cpp", "ollama"
VLLM, SGLANG, TENSORRT_LLM, LMDEPLOY = "vllm", "sglang", "tensorrt-llm", "lmdeploy"
# As the table of kernels calls those that it knows
ROWS = {VLLM: "vLLM 0.32", SGLANG: "SGLang 0.5.23", LLAMA_CPP: "llama.cpp"}
