"""Mistakes that lint must find: the rule, the device if one is named, the text."""

from __future__ import annotations

POD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: llm}}
spec:
  template:
    metadata:
      annotations: {{{annotations}}}
    spec:
      nodeSelector: {{{selector}}}
      containers:
      - name: engine
        image: {image}
        args: {args}
        env: [{{name: VLLM_API_KEY, valueFrom: {{secretKeyRef: {{name: llm, key: key}}}}}}]
        ports: [{{name: http, containerPort: {port}}}]
        resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}
        volumeMounts: [{{name: shm, mountPath: /dev/shm}}]
        startupProbe: {{httpGet: {{path: /health, port: {port}}}, failureThreshold: 120, periodSeconds: 10}}
        {liveness}
"""
VLLM_ARGS = "[Qwen/Qwen3-32B, --tensor-parallel-size, '2', --host, 0.0.0.0]"


def pod(
    *,
    image: str = "vllm/vllm-openai:v0.32.0",
    args: str = VLLM_ARGS,
    port: int = 8000,
    gpus: int = 2,
    liveness: str = "livenessProbe: {httpGet: {path: /health, port: http}}",
    annotations: str = "",
    selector: str = "",
) -> str:
    return POD.format(
        image=image, args=args, port=port, gpus=gpus, liveness=liveness, annotations=annotations, selector=selector
    )


def monitor(path: str) -> str:
    endpoints = f"[{{port: http, path: {path}}}]"
    return f"---\napiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nspec: {{endpoints: {endpoints}}}\n"


def scaler(metric: str) -> str:
    return (
        "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: llm}\nspec:\n"
        f"  scaleTargetRef: {{kind: Deployment, name: llm}}\n  metrics: [{metric}]\n"
    )


def by_pods(name: str) -> str:
    return f"{{type: Pods, pods: {{metric: {{name: '{name}'}}, target: {{type: AverageValue, averageValue: '5'}}}}}}"


CPU_METRIC = "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}"
LLAMA_ARGS = "[-m, m.gguf, -c, '8192', --api-key, $(K)]"
LOCAL = "--host 127.0.0.1"
LLAMA = f"llama-server -m m.gguf -c 8192 -fit off {LOCAL}"

PLANTED: tuple[tuple[str, str | None, str], ...] = (
    ("flag-removed", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --swap-space 4"),
    ("flag-removed", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --disable-log-requests"),
    ("flag-removed", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --speculative-model small --num-speculative-tokens 5"),
    ("flag-removed", None, f"{LLAMA} -md d.gguf --draft-max 16"),
    ("flag-removed", None, f"{LLAMA} --mlock"),
    ("flag-deprecated", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --disable-cascade-attn"),
    ("flag-unknown", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --max-modle-len 4096"),
    ("flag-of-another-engine", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --mem-fraction-static 0.8"),
    ("value-invalid", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --kv-cache-dtype int8"),
    ("value-invalid", None, "OLLAMA_KV_CACHE_TYPE=q5_0 ollama serve"),
    ("value-missing", None, f"sglang serve --model-path Qwen/Qwen3-8B {LOCAL} --context-length"),
    ("json-invalid", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --speculative-config method=ngram"),
    (
        "speculation-twice", None,
        f"vllm serve Qwen/Qwen3-8B {LOCAL} --spec-method ngram --speculative-config '{{\"method\": \"ngram\"}}'",
    ),
    ("quantization-gone", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --quantization deepspeedfp"),
    ("env-removed", None, f"VLLM_ATTENTION_BACKEND=FLASHINFER vllm serve Qwen/Qwen3-8B {LOCAL}"),
    ("command-removed", None, "trtllm-build --checkpoint_dir ckpt --output_dir engines --gemm_plugin float16"),
    ("entrypoint-old", None, f"python -m vllm.entrypoints.openai.api_server --model Qwen/Qwen3-8B {LOCAL}"),
    ("engine-retired", None, "text-generation-launcher --model-id Qwen/Qwen3-8B --hostname 127.0.0.1"),
    ("engine-retired", None, "python -m mii.entrypoints --model m\nauto-gptq quantize --bits 4 --model m"),
    ("fp8-compute", "a100-80-sxm", f"vllm serve Qwen/Qwen3-8B {LOCAL} --quantization fp8"),
    ("not-loaded", "mi250x:2", f"vllm serve Qwen/Qwen3-8B-FP8 {LOCAL}"),
    ("not-loaded", "arc-b60", f"vllm serve nvidia/Llama-3.1-8B-Instruct-NVFP4 {LOCAL}"),
    ("emulated", "mi300x", f"vllm serve nvidia/Llama-3.1-8B-Instruct-NVFP4 {LOCAL}"),
    ("emulated", "gaudi3", f"vllm serve m/Llama-3.1-8B-Instruct-quantized.w8a8 {LOCAL}"),
    ("fp4-compute", "h100-sxm", f"vllm serve nvidia/Llama-3.1-8B-Instruct-NVFP4 {LOCAL}"),
    ("bf16-before-ampere", "t4", f"vllm serve Qwen/Qwen3-4B {LOCAL} --dtype bfloat16 --max-model-len 2048"),
    ("capability-too-low", "v100-sxm2-32", f"vllm serve Qwen/Qwen3-8B-AWQ {LOCAL} --dtype half"),
    ("int8-on-new-blackwell", "b300-sxm", f"vllm serve neuralmagic/Llama-3.1-8B-quantized.w8a8 {LOCAL}"),
    ("quantization-mismatch", None, f"vllm serve Qwen/Qwen3-8B-AWQ {LOCAL} --quantization gptq"),
    ("slow-awq-kernel", None, f"sglang serve --model-path Qwen/Qwen3-8B-AWQ {LOCAL} --quantization awq"),
    ("kernel-gone", None, f"sglang serve --model-path m-GPTQ-Int4 {LOCAL} --quantization gptq"),
    ("plugin-needed", None, f"vllm serve ./model-Q4_K_M.gguf {LOCAL}"),
    ("plugin-needed", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --quantization bitsandbytes"),
    ("int4-compute-bound", "a100-80-sxm", f"vllm serve Qwen/Qwen3-8B-AWQ {LOCAL} --max-num-seqs 256"),
    ("no-memory", "rtx4090", f"vllm serve meta-llama/Llama-3.1-70B-Instruct {LOCAL}"),
    ("no-memory", "rtx3090:2", f"vllm serve meta-llama/Llama-3.1-70B-Instruct {LOCAL} -tp 2"),
    ("no-memory", "rtx4090:2", "llama-server -m Llama-3.1-70B-Q8_0.gguf -c 4096 -ngl 99 -fit off"),
    (
        "no-memory-for-kv", "a100-80-sxm:2",
        f"vllm serve meta-llama/Llama-3.1-70B-Instruct {LOCAL} -tp 2 --max-model-len 131072",
    ),
    ("no-memory-for-kv", "rtx4090", f"vllm serve meta-llama/Llama-3.1-8B-Instruct {LOCAL} --max-model-len 131072"),
    ("fraction-range", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --gpu-memory-utilization 90"),
    ("fraction-too-high", None, f"sglang serve --model-path Qwen/Qwen3-8B {LOCAL} --mem-fraction-static 0.97"),
    (
        "fraction-copied", None,
        f"vllm serve m {LOCAL} --gpu-memory-utilization 0.9\ntrtllm-serve m --free_gpu_memory_fraction 0.9",
    ),
    ("context-too-long", None, f"vllm serve meta-llama/Llama-2-7b-hf {LOCAL} --max-model-len 8192"),
    ("context-divided", None, f"{LLAMA} -np 8"),
    ("context-adjusted", None, f"llama-server -m m.gguf {LOCAL}"),
    ("quantized-v-cache", None, f"{LLAMA} -ctk q8_0 -ctv q8_0 -fa off"),
    ("static-batching", None, f"{LLAMA} -nocb"),
    ("static-batching", None, "transformers serve Qwen/Qwen3-8B"),
    ("tensor-parallel", None, f"vllm serve Qwen/Qwen2.5-7B-Instruct {LOCAL} --tensor-parallel-size 8"),
    ("too-many-devices", "h100-sxm:2", f"vllm serve Qwen/Qwen3-32B {LOCAL} --tensor-parallel-size 4"),
    ("open-without-key", None, "vllm serve Qwen/Qwen3-8B --host 0.0.0.0"),
    ("open-without-key", None, "OLLAMA_HOST=0.0.0.0:11434 ollama serve"),
    ("key-on-line", None, f"vllm serve Qwen/Qwen3-8B {LOCAL} --api-key sk-1234"),
    ("gpu-count", None, pod(gpus=4)),
    ("shared-memory", None, pod().replace("/dev/shm", "/cache")),
    ("no-startup-probe", None, pod().replace("startupProbe", "readinessProbe")),
    ("probe-path", None, pod(liveness="livenessProbe: {httpGet: {path: /healthz, port: http}}")),
    ("probe-port", None, pod(liveness="livenessProbe: {httpGet: {path: /health, port: 8080}}")),
    (
        "probe-costly", None,
        pod(
            image="lmsysorg/sglang:v0.5.23", port=30000, args="[sglang, serve, --model-path, m, --tp-size, '2']",
            liveness="livenessProbe: {httpGet: {path: /health_generate, port: http}}",
        ),
    ),
    ("metrics-path", None, pod() + monitor("/prometheus")),
    (
        "metrics-off", None,
        pod(
            image="ghcr.io/ggml-org/llama.cpp:server", port=8080, gpus=1, args=LLAMA_ARGS,
            annotations="prometheus.io/scrape: 'true'",
        ),
    ),
    ("metric-renamed", None, pod() + scaler(by_pods("vllm:gpu_cache_usage_perc"))),
    ("metric-renamed", None, pod() + scaler(by_pods("vllm:time_per_output_token_seconds_bucket"))),
    ("autoscale-on-cpu", None, pod() + scaler(CPU_METRIC)),
    ("fp8-compute", None, pod(selector="nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB",
                              args=VLLM_ARGS.replace("Qwen3-32B", "Qwen3-32B-FP8"))),
)  # fmt: skip
