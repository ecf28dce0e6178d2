"""Whole records with plausible figures, for looking at the page and for its tests."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from bitwright.core.behaviour import AgreementBin, LongOutput, Written
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Memory, ModelFacts, Plan, Reason
from bitwright.core.records import (
    ArtifactFile,
    ConfidenceBin,
    Estimate,
    Floors,
    Gate,
    LayerError,
    PositionBin,
    Provenance,
    Quantile,
    QuantRecord,
    SpeedPoint,
    SpeedRecord,
    TensorRecord,
    TextResult,
    ValidationRecord,
    Verdict,
    WorstToken,
)

MADE = Provenance(
    bitwright="0.1.0",
    python="3.11.7",
    platform="Linux x86_64",
    libraries={"torch": "2.13.0", "gguf": "0.19.0"},
    threads=2,
    created="2026-01-01T00:00:00+00:00",
    hardware="a processor of 2 cores, 24.0 GiB",
    code_sha256="0c" * 32,
)
KINDS = {"q_proj": 0.9, "k_proj": 0.7, "v_proj": 1.3, "o_proj": 2.0, "gate_proj": 1.1, "up_proj": 1.4, "down_proj": 2.6}
LAYERS = 30


def plan(**changes: Any) -> Plan:
    model = ModelFacts(
        path="models/wide",
        architecture="LlamaForCausalLM",
        family="llama",
        layers=LAYERS,
        hidden=768,
        intermediate=1536,
        heads=12,
        kv_heads=4,
        head_dim=64,
        vocab=49152,
        context=2048,
        tied=False,
        parameters=228_900_000,
        bytes=457_827_856,
        dtype="BF16",
        tensors=(),
        fingerprint="ab" * 32,
    )
    whole = Plan(
        model=model,
        device=DeviceFacts(name="this machine", kind="cpu", memory_bytes=24 << 30),
        use_case="chat",
        format="gguf",
        type="Q4_K_M",
        method="gptq",
        engine="llama.cpp",
        launch=("bitwright", "serve", "{artifact}"),
        calibration=CalibrationPlan(),
        tensors=(),
        file_bytes=145_400_000,
        bits_per_weight=5.08,
        memory=Memory(
            weights=145_400_000, kv_cache=9 << 20, overhead=64 << 20, total=1 << 28, available=24 << 30, context=2048
        ),
        reasons=(
            Reason(
                choice="GGUF with llama.cpp", because="there is no GPU on this machine", source="handbook 002, step 1"
            ),
            Reason(
                choice="Q4_K_M",
                because="chat tolerates 0.1 nats, and it fits in memory",
                source="handbook 002, table 3",
            ),
        ),
        warnings=("the machine has 2 cores: prompts of thousands of tokens will take long",),
    )
    return msgspec.structs.replace(whole, **changes)


def quant() -> QuantRecord:
    tensors = [
        TensorRecord(
            name=f"model.layers.{layer}.{'self_attn' if kind[0] in 'qkvo' else 'mlp'}.{kind}.weight",
            scheme="Q6_K" if kind in ("v_proj", "down_proj") and layer % 3 == 0 else "Q4_K",
            method="gptq",
            bytes=331_776,
            weight_error=0.0042,
            output_error=0.0005 * scale * (1 + layer / 10) * (1.3 + math.sin(7 * layer + scale)),
            damping=0.01,
            notes=("damping raised to 0.1: the Gram matrix was singular",)
            if layer in (0, 29) and kind == "down_proj"
            else (),
        )
        for layer in range(LAYERS)
        for kind, scale in KINDS.items()
    ]
    tensors.append(TensorRecord(name="model.norm.weight", scheme="F32", method="cast", bytes=3072, weight_error=0.0))
    return QuantRecord(
        plan=plan(),
        calibration=CalibrationPlan(),
        calibration_sha256="cd" * 32,
        tensors=tuple(tensors),
        files=(ArtifactFile(name="wide-Q4_K_M.gguf", bytes=145_400_000, sha256="ef" * 32),),
        seconds=143.0,
        peak_memory_bytes=900 << 20,
        provenance=MADE,
    )


def text(name: str = "wikitext2-test", kl: float = 0.0452) -> TextResult:
    return TextResult(
        name=name,
        sha256="12" * 32,
        windows=24,
        length=512,
        scored_tokens=6120,
        perplexity_reference=Estimate(value=23.51, low=20.4, high=26.6),
        perplexity_artifact=Estimate(value=23.66, low=20.5, high=26.8),
        perplexity_delta=Estimate(value=0.15, low=0.07, high=0.23),
        kl_mean=Estimate(value=kl, low=kl * 0.9, high=kl * 1.1),
        kl_median=0.021,
        kl_p99=0.41,
        kl_max=3.2,
        top1_agreement=Estimate(value=0.871, low=0.86, high=0.88),
        by_position=tuple(
            PositionBin(start=32 * i, stop=32 * i + 32, kl=at, interval=around(at, 0.08))
            for i in range(16)
            for at in [kl * (1 + 1.5 / (i + 1)) * (1 + 0.1 * math.sin(3 * i))]
        ),
        perplexity_ratio=Estimate(value=1.0064, low=1.003, high=1.0098),
        kl_quantiles=tuple(
            Quantile(share=share, kl=around(value, 0.15))
            for share, value in ((0.5, 0.021), (0.9, 0.11), (0.99, 0.41), (0.999, 1.3))
        ),
        top5_agreement=Estimate(value=0.861, low=0.855, high=0.867),
        rms_probability_change=Estimate(value=0.041, low=0.038, high=0.044),
        by_confidence=tuple(
            ConfidenceBin(
                low=low,
                high=high,
                tokens=tokens,
                kl=around(kl * factor, 0.1),
                top1_agreement=around(agreement, 0.02),
            )
            for low, high, tokens, factor, agreement in (
                (0.0, 0.1, 800, 1.3, 0.61),
                (0.1, 0.25, 1300, 1.5, 0.74),
                (0.25, 0.5, 1400, 1.2, 0.86),
                (0.5, 0.75, 1000, 0.9, 0.95),
                (0.75, 0.9, 600, 0.5, 0.991),
                (0.9, 0.99, 620, 0.15, 0.999),
                (0.99, 1.0, 400, 0.02, 1.0),
            )
        ),
        window_kl=tuple(kl * (1 + 0.2 * math.sin(5 * i)) for i in range(24)),
    )


def around(value: float, share: float) -> Estimate:
    return Estimate(value=value, low=value * (1 - share), high=value * (1 + share))


def gates_of(result: TextResult, kl: Verdict) -> list[Gate]:
    common = {"source": "handbook 002", "text": result.name}
    return [
        Gate(measure="kl_mean", limit=0.1, estimate=result.kl_mean, verdict=kl, **common),
        Gate(measure="perplexity_delta", limit=0.3, estimate=result.perplexity_delta, verdict="PASS", **common),
    ]


def validation(verdict: Verdict = "PASS", **changes: Any) -> ValidationRecord:
    worse = {"PASS": 0.0631, "FAIL": 0.31, "INCONCLUSIVE": 0.097}[verdict]
    texts = (text(), text("python-source", worse))
    gates = [*gates_of(texts[0], "PASS"), *gates_of(texts[1], verdict)]
    whole = ValidationRecord(
        verdict=verdict,
        use_case="chat",
        gates=tuple(gates),
        texts=texts,
        layers=tuple(
            LayerError(layer=i, activation_error=0.0004 * (1.14 ** (i + 1)), kl=None if i < 0 else 0.004 + 0.0016 * i)
            for i in range(-1, LAYERS)
        ),
        worst=tuple(
            WorstToken(
                window=i,
                position=300 + i,
                context=" the reign of king Henry, who in the year\nof",
                text="wikitext2-test",
                reference_token=" our",
                artifact_token=" the",
                next_token=" our",
                kl=3.2 - i / 10,
            )
            for i in range(20)
        ),
        reference="models/wide",
        reference_fingerprint="ab" * 32,
        artifact="out/wide-Q4_K_M.gguf",
        artifact_sha256=("ef" * 32,),
        artifact_bytes=145_400_000,
        decoder="gguf 0.19.0",
        seconds=97.0,
        command="bitwright validate out/wide-Q4_K_M.gguf --reference models/wide --text wikitext2-test.txt",
        provenance=MADE,
        notes=("python-source: 24 windows",),
        floors=Floors(tokens=510, order_kl=3.1e-9, order_flips=0.0, bfloat16_kl=0.00052, bfloat16_flips=0.0078),
        settings_sha256="5e" * 32,
        parameters=228_900_000,
        reference_bytes=457_827_856,
    )
    return msgspec.structs.replace(whole, **changes)


def long_output(decoding: str = "greedy", loops: float = 0.04) -> LongOutput:
    def written(tokens: float, loop: float) -> Written:
        return Written(
            tokens=around(tokens, 0.06), loop_rate=around(loop, 0.5), end_rate=around(0.7, 0.1),
            invalid_rate=around(0.0, 0.0),
        )  # fmt: skip

    return LongOutput(
        decoding=decoding, prompts=48, new_tokens=512, reference=written(311.0, 0.02), artifact=written(334.0, loops),
        first_divergence=around(61.0, 0.2), never_parted=around(0.08, 0.6),
        agreement=tuple(
            AgreementBin(start=64 * i, stop=64 * i + 64, texts=48 - 4 * i, share=around(0.9 / (i + 1), 0.15))
            for i in range(8)
        ),
        length_inflation=around(1.07, 0.04), loop_rise=Estimate(value=0.02, low=-0.02, high=0.06),
        end_drop=Estimate(value=0.03, low=-0.05, high=0.11), invalid_rise=around(0.0, 0.0),
    )  # fmt: skip


def speed() -> SpeedRecord:
    return SpeedRecord(
        engine="llama.cpp (xllamacpp 2026.10)",
        threads=2,
        provenance=MADE,
        points=(
            SpeedPoint(
                name="F16",
                bytes=458_000_000,
                prompt_tokens_s=310.0,
                decode_tokens_s=24.0,
                prompt_tokens=512,
                decode_tokens=64,
                repeats=3,
            ),
            SpeedPoint(
                name="Q4_K_M",
                bytes=145_400_000,
                prompt_tokens_s=295.0,
                decode_tokens_s=61.0,
                prompt_tokens=512,
                decode_tokens=64,
                repeats=3,
            ),
        ),
    )
