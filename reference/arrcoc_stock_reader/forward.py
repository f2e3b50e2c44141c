"""The same network as transformers', for training: pictures of one size in one batch, and many questions
about each behind one run of its prefix. Only the way is another: `tests/test_stock_reader.py` holds it
against transformers' own forward pass.

Letters in shapes: G pictures, P patches, T visual tokens, K questions about a picture, L tokens of a question
and its answer, S tokens of the prefix, H the decoder's width, D the tower's.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from .model import IMAGE_MEAN, IMAGE_STD


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [.., n, width], cos and sin [n, width] or [.., n, width]."""
    one, other = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-other, one), dim=-1) * sin


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight.to(x.dtype), norm.variance_epsilon)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q [.., n, width], k and v [.., m, width], mask [n, m] to be added. In bfloat16 it is three to four
    times as fast on a CPU as PyTorch's fused attention, whose backward pass is slow."""
    scores = (q * q.shape[-1] ** -0.5).to(v.dtype) @ k.to(v.dtype).transpose(-2, -1)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    with torch.autocast("cpu", enabled=False):
        shares = scores.softmax(-1)
    return shares @ v


def patches(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """uint8 [G, h, w, 3] -> [G, P, 3 * patch * patch], square by square, as Qwen's image processor does."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    x = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std  # [G, 3, h, w]
    g, c, h, w = x.shape
    side = merge * patch
    x = x.reshape(g, c, h // side, merge, patch, w // side, merge, patch)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(g, -1, c * patch * patch)


@cache
def places(visual: nn.Module, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a grid of patches: corners of the table of positions and their weights, cos and sin."""
    grid = torch.tensor([[1, rows, columns]])
    corners, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=visual.num_grid_per_side, mode="bilinear", align_corners=True,
        spatial_merge_size=visual.spatial_merge_size, kwargs={},
    )  # fmt: skip
    ids = get_vision_position_ids(grid, visual.spatial_merge_size, kwargs={})
    cos, sin = visual.rotary_pos_emb(torch.zeros(1), ids)
    return corners, weights, cos, sin


def tower(visual: nn.Module, pixels: Tensor, tapped: bool = True) -> tuple[Tensor, list[Tensor]]:
    """uint8 [G, h, w, 3] -> the rows for the decoder's input [G, T, H], and each tap's where `tapped`."""
    patch, merge = visual.patch_size, visual.spatial_merge_size
    corners, weights, cos, sin = places(visual, pixels.shape[1] // patch, pixels.shape[2] // patch)
    # Both frames of a picture are the same.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)  # [D, 3 * patch * patch]
    x = F.linear(patches(pixels, patch, merge), kernel, visual.patch_embed.proj.bias)
    x = x + (visual.pos_embed(corners) * weights[:, :, None]).sum(1)  # [G, P, D]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    taps = []
    for number, block in enumerate(visual.blocks):
        x = tower_block(block, x, cos, sin)
        if tapped and number in visual.deepstack_visual_indexes:
            index = visual.deepstack_visual_indexes.index(number)
            taps.append(merged(visual.deepstack_merger_list[index], x))
    return merged(visual.merger, x), taps


def tower_block(block: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = block.attn.num_heads
    qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1))  # [G, P, 3, heads, width]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    seen = attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
    x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def merged(merger: nn.Module, x: Tensor) -> Tensor:
    """[G, P, D] -> [G, T, H]"""
    squares = x.shape[0], -1, merger.hidden_size
    x = merger.norm(x.reshape(squares)) if merger.use_postshuffle_norm else merger.norm(x).reshape(squares)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))


def positions(before: int, rows: int, columns: int, length: int) -> tuple[Tensor, Tensor]:
    """Places in time, height and width of the prefix [3, S] and of every branch behind it [3, L]."""
    start = torch.arange(before).expand(3, -1)
    at = before + torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ).flatten(1)
    image = torch.cat([torch.full((1, rows * columns), before), at])
    behind = before + max(rows, columns) + torch.arange(length)
    return torch.cat([start, image], dim=1), behind.expand(3, -1)


class Decoded:
    """What `decode` found: hidden states of the branches, and what one layer's heads looked at."""

    def __init__(self, hidden: Tensor, looks: Tensor | None):
        self.hidden = hidden  # [G, K, L, H], behind the last norm
        self.looks = looks  # [G, K, L, T] logarithms of the share of each visual token


def decode(
    text: nn.Module,
    ids: Tensor,
    rows: Tensor,
    taps: list[Tensor],
    grid: tuple[int, int],
    branches: Tensor,
    watched: int | None = None,
    heads: int = 2,
) -> Decoded:
    """Runs the prefix (`ids` [B0] and the picture's rows [G, T, H]) once, and every branch ([G, K, L] ids)
    behind it. A branch sees the prefix and itself. `watched`: the layer whose first `heads` heads' looks are
    returned."""
    g, k, length = branches.shape
    table = text.embed_tokens
    prefix = torch.cat([table(ids).expand(g, -1, -1), rows], dim=1)  # [G, S, H]
    size = prefix.shape[1]
    ahead, behind = positions(len(ids), *grid, length)
    at = torch.cat([ahead, behind.repeat(1, k)], dim=1)[:, None]  # [3, 1, S + K * L]
    x = torch.cat([prefix, table(branches.flatten(1))], dim=1)  # [G, S + K * L, H]
    cos, sin = (part[0] for part in text.rotary_emb(x.float(), at))
    masks = causal(size, size), causal(length, size + length)
    looks = None
    for number, layer in enumerate(text.layers):
        x, looked = decoder_layer(
            layer, x, cos, sin, (size, k, length), masks, heads if number == watched else 0
        )
        if number == watched:
            looks = looked[..., len(ids) :].log_softmax(-1).logsumexp(1)  # over heads
            looks = looks - torch.tensor(float(heads)).log()
        if number < len(taps):
            image = F.pad(taps[number], (0, 0, len(ids), k * length))
            x = x + image
    return Decoded(rms(x[:, size:], text.norm).unflatten(1, (k, length)), looks)


def decoder_layer(layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, split: tuple[int, int, int],
                  masks: tuple[Tensor, Tensor], heads: int):  # fmt: skip
    size, k, length = split
    attention = layer.self_attn
    normed = rms(x, layer.input_layernorm)
    q, key, v = (
        project(normed).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q = rotate(rms(q, attention.q_norm).transpose(1, 2), cos, sin).to(v.dtype)  # [G, heads, n, width]
    key = rotate(rms(key, attention.k_norm).transpose(1, 2), cos, sin).to(v.dtype)
    v = v.transpose(1, 2)
    looks = None
    if heads:
        group = attention.num_key_value_groups
        mine = key[:, :, :size].repeat_interleave(group, 1)[:, :heads]  # [G, heads, S, width]
        looks = (q[:, :heads, size:] @ mine.transpose(2, 3)).float() * attention.scaling
        looks = looks.unflatten(2, (k, length))  # [G, heads, K, L, S]
    seen = attend(q, key, v, split, masks)
    x = x + attention.o_proj(seen)
    normed = rms(x, layer.post_attention_layernorm)
    mlp = layer.mlp
    return x + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)), looks


def attend(
    q: Tensor, key: Tensor, v: Tensor, split: tuple[int, int, int], masks: tuple[Tensor, Tensor]
) -> Tensor:
    """[G, heads, n, width] -> [G, n, heads * width]: the prefix sees itself, a branch the prefix and itself.
    Heads that share a key stand below each other."""
    size, k, length = split
    ahead, behind = masks
    group = q.shape[1] // key.shape[1]

    def stacked(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, group)).flatten(2, 3)  # [.., kv heads, group * n, width]

    def unstacked(x: Tensor) -> Tensor:
        return x.unflatten(2, (group, -1)).flatten(1, 2).transpose(1, 2)  # [.., n, heads, width]

    first = attention(stacked(q[:, :, :size]), key[:, :, :size], v[:, :, :size], ahead.repeat(group, 1))

    def branch(x: Tensor) -> Tensor:
        return (
            x[:, :, size:].unflatten(2, (k, length)).transpose(1, 2).flatten(0, 1)
        )  # [G * K, heads, L, width]

    def whole(x: Tensor) -> Tensor:
        shared = x[:, None, :, :size].expand(-1, k, -1, -1, -1).flatten(0, 1)
        return torch.cat([shared, branch(x)], dim=2)  # [G * K, heads, S + L, width]

    rest = attention(stacked(branch(q)), whole(key), whole(v), behind.repeat(group, 1))
    rest = unstacked(rest).unflatten(0, (-1, k)).flatten(1, 2)  # [G, K * L, heads, width]
    return torch.cat([unstacked(first), rest], dim=1).flatten(2)


def causal(queries: int, keys: int) -> Tensor:
    """[queries, keys], to be added: the last query sees all keys, each one before it one less."""
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return torch.zeros(queries, keys).masked_fill(hidden, float("-inf"))
