"""Types by hand: which tensors `--keep PATTERN` leaves in floating point, and what `--type PATTERN=TYPE` makes of them.

A pattern is a glob over Hugging Face tensor names, with or without `.weight`; after `re:` it is a regular expression
that must match from the start of the name, as in the targets of compressed-tensors. `--keep` is stronger than `--type`,
and of several `--type` that match a tensor the last one counts. What no format stores in few bits (vectors, routers) is
left as it is.

Linears that engines run as one matrix share a scheme: what is asked of one of them holds for all, and two different
wishes are refused. llama.cpp runs every matrix by itself; there only the experts of a block are one tensor.

Not here: types under a byte budget (budget.py), which leaves alone what was asked for by hand.
Source of the patterns: compressed-tensors 0.20, utils/match.py, match_name.
"""

from __future__ import annotations

import collections
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bitwright.core.errors import UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import ArtifactFormat, ModelFacts, Override, Reason, TensorPlan
from bitwright.core.schemes import GGML_BLOCKS, FloatScheme, GgmlScheme, WeightScheme
from bitwright.facts.blocks import fused_modules
from bitwright.facts.families import BLOCK, FAMILIES, gguf_tensor, is_block_linear
from bitwright.facts.float_folders import FLOAT_FOLDERS
from bitwright.facts.folder_types import FOLDERS
from bitwright.planner.tensors import FLOATS, with_scheme

REGEX = "re:"
NAMED = 5  # names that an error lists
FUSED_SOURCE = "vLLM 0.32, compressed_tensors/utils.py; llama.cpp keeps the experts of a block in one tensor"


def override_tensors(
    facts: ModelFacts,
    tensors: tuple[TensorPlan, ...],
    format: ArtifactFormat,
    overrides: Sequence[Override],
    scheme_of: Callable[[str], WeightScheme],
) -> tuple[TensorPlan, ...]:
    """`tensors` with what was asked for by hand. `scheme_of` knows the types of the format by name.

    Raises `UsageError` for a pattern that matches nothing that can be changed, for a type whose groups do not fill
    rows, and for different wishes for linears that engines run as one; `UnsupportedError` where a format has one type.
    """
    if not overrides:
        return tensors
    by_name = {entry.name: entry for entry in tensors}
    wishes: dict[str, Override] = {}
    for override in sorted(overrides, key=lambda override: override.type == ""):  # --keep last: it is the stronger
        if override.type and format in (*FOLDERS, *FLOAT_FOLDERS):
            raise UnsupportedError(
                f"{override.words}: the quantized matrices of a {format} file share one type",
                hint=f"use --keep '{override.pattern}', or --format compressed-tensors or gguf",
            )
        names = _changeable(override, [name for name in by_name if matches(override.pattern, name)], by_name, format)
        wishes |= dict.fromkeys(names, override)
    reasons = {name: f"asked by {wish.words}" for name, wish in wishes.items()}
    schemes = {name: _scheme(facts, by_name[name], format, wish, scheme_of) for name, wish in wishes.items()}
    for members in fused_tensors(facts, tensors, format):
        wished = {name: schemes[name] for name in members if name in schemes}
        if len(set(wished.values())) > 1:
            raise _split(wished, reasons)
        for name in members if wished else ():
            if name not in wished:
                first = next(iter(wished))
                reasons[name] = f"{reasons[first]} for `{first}`, which engines run together with it"
                schemes[name] = schemes[first]

    def overridden(entry: TensorPlan) -> TensorPlan:
        if entry.name not in schemes:
            return entry
        changed = with_scheme(entry, schemes[entry.name], format, reasons[entry.name])
        return msgspec.structs.replace(changed, by_hand=True)

    return tuple(map(overridden, tensors))


def override_reasons(tensors: Iterable[TensorPlan]) -> tuple[Reason, ...]:
    """A line for every wish, and one for every wish that reached further than its pattern."""
    found: dict[tuple[str, str, bool], list[str]] = collections.defaultdict(list)
    for entry in tensors:
        if entry.by_hand:
            wish, _, partner = entry.reason.partition(" for `")
            found[entry.scheme.label, wish, partner != ""].append(entry.name)
    reasons = []
    for (label, wish, widened), names in found.items():
        because, source = wish, "the request"
        if widened:
            because = f"{wish}; engines run it as one with what the pattern names ({_listed(names)})"
            source = FUSED_SOURCE
        reasons.append(
            Reason(
                choice=f"{label} for {len(names)} {'more ' if widened else ''}tensors", because=because, source=source
            )
        )
    return tuple(reasons)


def matches(pattern: str, name: str) -> bool:
    """Whether a tensor is meant. Raises `UsageError` for a regular expression that is none."""
    names = (name, name.removesuffix(".weight"))
    if not pattern.startswith(REGEX):
        return any(fnmatch.fnmatchcase(one, pattern) for one in names)
    try:
        compiled = re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise UsageError(
            f"`{pattern}` is no regular expression: {error}", hint="leave `re:` away for a pattern with * and ?"
        ) from error
    return any(compiled.match(one) for one in names)


def _changeable(
    override: Override, names: Sequence[str], by_name: dict[str, TensorPlan], format: ArtifactFormat
) -> list[str]:
    """Those of the matched tensors that the format stores in few bits. A tensor that is float anyway can be kept."""
    if not names:
        raise UsageError(f"{override.words}: no tensor of the model is called so", hint=_nearest(override, by_name))
    if format == "safetensors":
        return list(names)  # whose every tensor is a float
    if format == "gguf":
        found = [name for name in names if len(by_name[name].shape) > 1 and not _is_router(by_name[name])]
    else:
        found = [name for name in names if is_block_linear(name)]
    if not found and override.type:
        kept = "vectors and routers" if format == "gguf" else "all but the linears of blocks"
        raise UsageError(
            f"{override.words}: {_listed(names)} keep their type, as {kept} do in {format}",
            hint="name matrices, for instance '*.down_proj'",
        )
    return found


def _is_router(entry: TensorPlan) -> bool:
    return "ffn_gate_inp" in entry.stored_name


def _scheme(
    facts: ModelFacts,
    entry: TensorPlan,
    format: ArtifactFormat,
    wish: Override,
    scheme_of: Callable[[str], WeightScheme],
) -> WeightScheme:
    if not wish.type:
        stored = next(tensor.dtype for tensor in facts.all_tensors if tensor.name == entry.name)
        return GgmlScheme(type=stored) if format == "gguf" else FloatScheme(dtype=FLOATS[stored])
    scheme = scheme_of(wish.type)
    columns = entry.shape[-1]
    group = GGML_BLOCKS[scheme.type][0] if isinstance(scheme, GgmlScheme) else getattr(scheme, "input_group", None)
    if group is not None and columns % group:
        fitting = [kind for kind, (size, _) in GGML_BLOCKS.items() if columns % size == 0]
        hint = (
            f"types that fit: {', '.join(fitting)}"
            if format == "gguf"
            else "use a smaller --group-size, or FP8_DYNAMIC"
        )
        raise UsageError(
            f"{wish.words}: blocks of {group} do not fill the {columns} inputs of `{entry.name}`", hint=hint
        )
    return scheme


def fused_tensors(
    facts: ModelFacts, tensors: tuple[TensorPlan, ...], format: ArtifactFormat
) -> Iterable[Sequence[str]]:
    """Names of tensors that must share a scheme, because an engine runs them as one matrix or one kernel."""
    if format == "safetensors" or facts.family not in FAMILIES:
        return
    if format != "gguf":
        for layer in range(facts.layers):
            for modules in fused_modules(facts, layer):
                yield [f"{BLOCK.format(layer=layer)}{module}.weight" for module in modules]
        return
    held: dict[str, list[str]] = collections.defaultdict(list)
    for entry in tensors:
        held[gguf_tensor(entry.stored_name)].append(entry.name)
    yield from held.values()


def _split(wished: dict[str, WeightScheme], reasons: dict[str, str]) -> UsageError:
    """The error for two wishes within one matrix of the engine."""
    first, *others = wished
    other = next(name for name in others if wished[name] != wished[first])
    return UsageError(
        f"`{first}` is to be {wished[first].label} ({reasons[first]}) and `{other}` {wished[other].label} "
        f"({reasons[other]}), but engines run them as one",
        hint="ask the same of both, or use --format gguf, where every matrix has its own type",
    )


def _nearest(override: Override, by_name: dict[str, TensorPlan]) -> str:
    """Names like the pattern: whole ones, or their ends with the star that a glob needs."""
    ends = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in by_name})
    if override.pattern in ends:
        return f"did you mean `*.{override.pattern}`?"
    if not override.pattern.startswith(REGEX) and any(sign in override.pattern for sign in "*?["):
        return f"names end in {', '.join(ends)}"
    return did_you_mean(override.pattern, ends)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(f"`{name}`" for name in names[:NAMED]) + (f" and {more} more" if more > 0 else "")
