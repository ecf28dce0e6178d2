"""Texts in which there is nothing to find: the device if one is named, the text."""

from __future__ import annotations

from planner.lint.planted import LLAMA, LOCAL, by_pods, monitor, pod, scaler

SGLANG_ARGS = "[sglang, serve, --model-path, m, --tp-size, '2', --host, 0.0.0.0, --api-key, $(KEY), --enable-metrics]"
DRAFTING = '--speculative-config \'{"method":"ngram","num_speculative_tokens":4}\''
IMAGE = "vllm/vllm-openai:v0.32.0"
TRT_ARGS = "[trtllm-serve, m, --tp_size, '2', --config, trtllm.yaml]"

SOUND: tuple[tuple[str | None, str], ...] = (
    (None, f"vllm serve Qwen/Qwen3-8B {LOCAL}"),
    (None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --max-model-len 16k --kv-cache-dtype fp8 --enable-prefix-caching"),
    (None, "vllm serve Qwen/Qwen3-8B --host=127.0.0.1 --no-enable-prefix-caching --max_num_seqs 64"),
    ("a100-80-sxm", f"vllm serve Qwen/Qwen3-32B-AWQ {LOCAL} --max-num-seqs 16"),
    ("h100-sxm", f"vllm serve Qwen/Qwen3-32B-FP8 {LOCAL} --max-num-seqs 256"),
    ("t4", f"vllm serve Qwen/Qwen3-1.7B {LOCAL} --dtype half"),
    ("b200-sxm", f"vllm serve nvidia/Llama-3.1-8B-Instruct-NVFP4 {LOCAL}"),
    ("mi300x", f"vllm serve Qwen/Qwen3-32B-FP8 {LOCAL} --max-num-seqs 256"),
    ("mi250x:2", f"VLLM_USE_TRITON_AWQ=1 vllm serve Qwen/Qwen3-32B-AWQ {LOCAL} -tp 2 --max-num-seqs 16"),
    ("mi300x", f"VLLM_ROCM_USE_AITER=1 vllm serve m/Llama-3.1-8B-Instruct-w8a8 {LOCAL}"),
    ("gaudi3", f"vllm serve Qwen/Qwen3-32B-FP8 {LOCAL} --kv-cache-dtype fp8_inc"),
    ("h100-sxm:4", f"vllm serve meta-llama/Llama-3.1-70B-Instruct {LOCAL} --tensor-parallel-size 4"),
    ("h200:16", f"vllm serve meta-llama/Llama-3.1-405B {LOCAL} -tp 8 -pp 2 --max-model-len 8192"),
    (None, "VLLM_API_KEY=$KEY vllm serve Qwen/Qwen3-8B --host 0.0.0.0 --gpu-memory-utilization 0.9"),
    (None, "export VLLM_API_KEY=secret\nvllm serve Qwen/Qwen3-8B \\\n  --host 0.0.0.0 \\\n  --dtype auto\n"),
    (None, f"vllm serve Qwen/Qwen3-8B {LOCAL} {DRAFTING}"),
    (None, f"docker run --gpus all -e VLLM_API_KEY=$KEY -v hf:/cache {IMAGE} --model Qwen/Qwen3-8B"),
    (None, f"cd models && exec vllm serve Qwen/Qwen3-8B-GPTQ-Int4 {LOCAL} --dtype half 2>&1 | tee log"),
    (None, "sglang serve --model-path Qwen/Qwen3-8B --tp 2 --kv-cache-dtype fp8_e4m3 --enable-metrics"),
    (None, "sglang serve --model-path Qwen/Qwen3-8B-AWQ --mem-fraction-static 0.85 --quantization awq_marlin"),
    ("h100-sxm:2", "sglang serve Qwen/Qwen3-32B --tp-size 2 --context-length 16384 --max-running-requests 64"),
    (None, "trtllm-serve nvidia/Llama-3.1-8B-Instruct-FP8 --tp_size 1 --max_seq_len 8192 --config trtllm.yaml"),
    (None, "trtllm-serve serve m --kv_cache_free_gpu_memory_fraction 0.9 --enable_chunked_prefill"),
    (None, LLAMA),
    (None, f"{LLAMA} -np 4 -kvu -ctk q8_0 -ctv q8_0 -fa on --metrics"),
    (None, f"{LLAMA} -np 1 -ngl all --load-mode mlock"),
    (None, f"{LLAMA} --spec-type draft-simple --spec-draft-model d.gguf --spec-draft-n-max 8"),
    ("rtx4090", "llama-server -m Llama-3.1-8B-Q4_K_M.gguf -c 16384 -ngl 99 -fit off"),
    ("rtx4090:2", "llama-server -m Llama-3.1-70B-Q4_K_M.gguf -c 4096 -ngl 99 -fit off"),
    ("a100-80-sxm:2", f"vllm serve meta-llama/Llama-3.1-70B-Instruct {LOCAL} -tp 2 --max-model-len 8192"),
    ("a100-80-sxm:2", f"vllm serve mistralai/Mixtral-8x7B-Instruct-v0.1 {LOCAL} -tp 2 --max-model-len 16384"),
    ("rtx4090", f"vllm serve google/gemma-3-12b-it-w4a16 {LOCAL} --max-model-len 65536"),  # windows keep it small
    (None, "lmdeploy serve api_server Qwen/Qwen3-8B-AWQ --model-format awq --quant-policy 8 --server-name 127.0.0.1"),
    (None, "OLLAMA_KV_CACHE_TYPE=q8_0\nOLLAMA_FLASH_ATTENTION=1\nOLLAMA_NUM_PARALLEL=4\n"),
    (None, "OLLAMA_CONTEXT_LENGTH=8192 ollama serve"),
    (None, "transformers serve Qwen/Qwen3-8B --continuous-batching"),
    (None, pod()),
    (None, pod() + monitor("/metrics") + scaler(by_pods("vllm:num_requests_waiting"))),
    (None, pod() + scaler(by_pods("vllm:request_time_per_output_token_seconds_bucket"))),
    (None, pod() + scaler(by_pods("vllm:kv_cache_usage_perc"))),
    (None, pod(annotations="prometheus.io/scrape: 'true', prometheus.io/path: /metrics")),
    (None, pod(image="lmsysorg/sglang:v0.5.23", port=30000, args=SGLANG_ARGS) + monitor("/metrics")),
    (None, pod(image="nvcr.io/nvidia/tensorrt-llm/release:1.2", args=TRT_ARGS) + monitor("/prometheus/metrics")),
    (None, pod().replace("env: [", "envFrom: [{secretRef: {name: llm}}]\n        env: [").replace("VLLM_API_KEY", "X")),
    (None, pod(gpus=1).replace("kind: Deployment", "kind: LeaderWorkerSet")),
    (None, "LLAMA_ARG_KV_UNIFIED=1 LLAMA_ARG_CTX_SIZE=8192 LLAMA_ARG_N_PARALLEL=4 llama-server -m m.gguf -fit off"),
    (None, pod(selector="nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3")),
)  # fmt: skip
