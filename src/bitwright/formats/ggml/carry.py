"""Keys of one GGUF file into another, unchanged: a quantized copy keeps the tokenizer, the template and the dimensions
of the float file that it is made from, as `llama-quantize` does.

Left out is what the copy says of itself: file type, quantization version, importance matrix, verdict, parts of a split.

Not here: keys made from a Hugging Face folder (metadata.py, tokenizer.py).
Source: ggml docs/gguf.md; llama.cpp src/llama-quant.cpp (llama_model_quantize_impl).
"""

from __future__ import annotations

import gguf

from bitwright.formats.ggml.summary import SUMMARY_KEY

OWN_KEYS = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")
OWN_PREFIXES = ("GGUF.", "quantize.", "split.")  # `general.architecture` is written by the library itself


def carry_metadata(writer: gguf.GGUFWriter, reader: gguf.GGUFReader) -> None:
    """Add every key of `reader` that is not the file's own, with its type, in the file's order."""
    for key, field in reader.fields.items():
        if key in (*OWN_KEYS, SUMMARY_KEY) or key.startswith(OWN_PREFIXES):
            continue
        kind, value = field.types[0], field.contents()
        if value == []:  # the library writes no empty arrays
            continue
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, sub_type=inner)
