"""Exact rewritings of a Llama: other weights, the same function.

Why: the demo model is distributed already rounded to 4 bits in groups of 32. Quantizing those very numbers again would
look lossless and prove nothing. Each identity below leaves the logits unchanged and moves the weights off that grid.

    shuffle   Residual channels are renamed by a signed permutation P. RMSNorm commutes with it, so writers become P W,
              readers W P', norm gains P gain. A group of 32 columns now mixes 32 old groups.
    rescale   A positive factor s per channel passes between a producer and its only readers: gain / s and W s around a
              norm, W / s and W s around the product up * gate or the attention average, which are linear in it.
    widen     Twins: residual channel x becomes (x cos t, x sin t). A reader with column w becomes
              (w cos t + r sin t, w sin t - r cos t), for any r, since the r terms cancel. Twins keep the sum of
              squares, so the mean over H' > H channels shrinks by H / H': readers take sqrt(H / H'), epsilon H / H'.
              One key-value group is copied with its queries; the output columns of the original and the copy are
              a W + r and (1 - a) W - r, and both groups compute the same.

Dimension key: H hidden, H' widened hidden, I intermediate, G key-value groups, R queries per group, D head size.
All functions change a `Weights` dict of float32 tensors under Hugging Face names and draw from the given generator.
"""

from __future__ import annotations

import dataclasses

import torch

Weights = dict[str, torch.Tensor]
FACTOR_SPREAD = 0.25  # standard deviation of ln s; real checkpoints vary about as much from channel to channel
NULL_SPREAD = 0.2  # size of r against the columns that it is added to
ATTENTION_IN = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP_IN = ("mlp.gate_proj", "mlp.up_proj")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The counts that the identities need."""

    layers: int
    hidden: int
    intermediate: int
    groups: int
    queries_per_group: int
    head: int


def draw_factors(count: int, generator: torch.Generator) -> torch.Tensor:
    """Log-normal positive factors [count]."""
    return torch.exp(FACTOR_SPREAD * torch.randn(count, generator=generator))


def shuffle(weights: Weights, shape: Shape, generator: torch.Generator) -> None:
    """Rename the residual channels by a signed permutation. Covers tied embeddings, which nothing else can move."""
    order = torch.randperm(shape.hidden, generator=generator)
    signs = torch.randint(2, (shape.hidden,), generator=generator).float() * 2 - 1
    for name, value in weights.items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part.endswith("norm"):
            weights[name] = value[order]
        elif part in ("o_proj", "down_proj"):
            weights[name] = (value * signs[:, None])[order]
        else:
            weights[name] = (value * signs)[:, order]


def rescale(weights: Weights, shape: Shape, generator: torch.Generator) -> None:
    """Move random factors along every path where a positive factor per channel may travel."""
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        _across_norm(weights, block, "input_layernorm", ATTENTION_IN, shape, generator)
        _across_norm(weights, block, "post_attention_layernorm", MLP_IN, shape, generator)
        factors = draw_factors(shape.intermediate, generator)
        weights[block + "mlp.up_proj.weight"] = weights[block + "mlp.up_proj.weight"] / factors[:, None]
        weights[block + "mlp.down_proj.weight"] = weights[block + "mlp.down_proj.weight"] * factors
        factors_GD = draw_factors(shape.groups * shape.head, generator).view(shape.groups, 1, shape.head)
        factors_GRD = factors_GD.expand(-1, shape.queries_per_group, -1)
        value, output = block + "self_attn.v_proj.weight", block + "self_attn.o_proj.weight"
        weights[value] = weights[value] / factors_GD.reshape(-1, 1)
        weights[output] = weights[output] * factors_GRD.reshape(-1)


def _across_norm(
    weights: Weights, block: str, norm: str, readers: tuple[str, ...], shape: Shape, generator: torch.Generator
) -> None:
    factors = draw_factors(shape.hidden, generator)
    weights[f"{block}{norm}.weight"] = weights[f"{block}{norm}.weight"] / factors
    for reader in readers:
        weights[f"{block}{reader}.weight"] = weights[f"{block}{reader}.weight"] * factors


def widen(weights: Weights, shape: Shape, hidden: int, generator: torch.Generator) -> Shape:
    """Grow the residual stream to `hidden` channels by twins, and every attention by one copied group.

    `lm_head.weight` must be present: a twin writes (cos, sin) but may read anything, so embedding and head part ways.
    The epsilon of the norms must be multiplied by H / H' by the caller. Returns the new shape.
    """
    twins = Twins.draw(shape.hidden, hidden, generator)
    for name in [*weights]:
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in ("o_proj", "down_proj"):
            weights[name] = twins.write(weights[name])
        elif part == "embed_tokens":
            weights[name] = twins.write(weights[name].T).T.contiguous()
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        _widen_norm(weights, block + "input_layernorm", [block + name for name in ATTENTION_IN], twins, generator)
        _widen_norm(weights, block + "post_attention_layernorm", [block + name for name in MLP_IN], twins, generator)
        _copy_group(weights, block + "self_attn.", shape, generator)
    _widen_norm(weights, "model.norm", ["lm_head"], twins, generator)
    return dataclasses.replace(shape, hidden=hidden, groups=shape.groups + 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Which channels [T] have a twin, at which angle; T = H' - H. Twins are appended behind the old channels."""

    channels: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor
    shrink: float  # sqrt(H / H')

    @staticmethod
    def draw(hidden: int, widened: int, generator: torch.Generator) -> Twins:
        """Choose channels and angles; angles stay away from 0 and 90 degrees, so that both twins carry signal."""
        count = widened - hidden
        assert 0 < count <= hidden, (hidden, widened)
        angle = 0.4 + 0.8 * torch.rand(count, generator=generator)
        return Twins(
            channels=torch.randperm(hidden, generator=generator)[:count],
            cosine=torch.cos(angle),
            sine=torch.sin(angle),
            shrink=(hidden / widened) ** 0.5,
        )

    def write(self, weight_HX: torch.Tensor) -> torch.Tensor:
        """Split rows that produce a channel into the two twins: [H, X] → [H', X]."""
        split = weight_HX.clone()
        split[self.channels] *= self.cosine[:, None]
        return torch.cat([split, weight_HX[self.channels] * self.sine[:, None]])

    def read(self, weight_XH: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Join columns that read a channel, with noise that cancels between twins: [X, H] → [X, H']."""
        column = weight_XH[:, self.channels]
        noise = torch.randn(column.shape, generator=generator) * column.std() * NULL_SPREAD
        joined = weight_XH.clone()
        joined[:, self.channels] = column * self.cosine + noise * self.sine
        return torch.cat([joined, column * self.sine - noise * self.cosine], dim=1)


def _widen_norm(weights: Weights, norm: str, readers: list[str], twins: Twins, generator: torch.Generator) -> None:
    """Fold the gain into the readers, widen them, and draw a new gain that they undo."""
    gain = weights[f"{norm}.weight"]
    fresh = draw_factors(gain.numel() + twins.channels.numel(), generator) * gain.abs().mean()
    for reader in readers:
        weights[f"{reader}.weight"] = twins.read(weights[f"{reader}.weight"] * gain, generator) / fresh * twins.shrink
    weights[f"{norm}.weight"] = fresh


def _copy_group(weights: Weights, attention: str, shape: Shape, generator: torch.Generator) -> None:
    """Append a copy of one key-value group and share its output columns between original and copy."""
    chosen = int(torch.randint(shape.groups, (1,), generator=generator))
    for part in ("q_proj", "k_proj", "v_proj"):
        name = f"{attention}{part}.weight"
        rows = weights[name]
        grouped = rows.view(shape.groups, -1, rows.shape[1])
        weights[name] = torch.cat([grouped, grouped[chosen : chosen + 1]]).flatten(0, 1)
    name = f"{attention}o_proj.weight"
    columns = weights[name].view(weights[name].shape[0], shape.groups, -1)  # [H', G, R * D]
    share = 0.3 + 0.4 * torch.rand(1, generator=generator)
    original = columns[:, chosen]
    noise = torch.randn(original.shape, generator=generator) * original.std() * NULL_SPREAD
    copied = (1 - share) * original - noise
    columns = columns.clone()
    columns[:, chosen] = share * original + noise
    weights[name] = torch.cat([columns, copied[:, None]], dim=1).flatten(1, 2)
