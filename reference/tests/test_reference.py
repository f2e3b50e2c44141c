"""The reference against itself and against transformers. Run with `pytest` in reference."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SamVisionModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from arrcoc_reference import ArrCocOvis, CheckpointError, Preprocessor, Prompter  # noqa: E402
from arrcoc_reference.compressor import gist_membership, patch_positions  # noqa: E402
from arrcoc_reference.vision import sample_positions  # noqa: E402
from write_checkpoint import TINY, write_checkpoint  # noqa: E402

torch.set_num_threads(2)

# Parameters that a loss on the decoder's logits does not reach, and why.
WITHOUT_GRADIENT = {
    "arr_coc_allocator.tier_head.": "the choice of the tier is not differentiable; a loss on tier_logits trains it",
    "clip_vision_model.embeddings.patch_embedding.": "tokens come from the compressor; kept for a whole checkpoint",
    "clip_vision_model.post_layernorm.": "transformers applies it to the class token only, which is dropped",
}
# Here the gradient is zero but for rounding: a constant added to every key changes no softmax.
ZERO_GRADIENT = "self_attn.k_proj.bias"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, TINY, seed=0)
    return directory


@pytest.fixture(scope="session")
def model(checkpoint) -> ArrCocOvis:
    return ArrCocOvis.from_pretrained(checkpoint).requires_grad_(False)


def scene(model: ArrCocOvis, batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, P, C] of a 512 px image, a question [B, 7] and its mask."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 1024, 64, generator=generator)
    query_ids = torch.randint(0, 256, (batch, 7), generator=generator)
    return features, query_ids, torch.ones_like(query_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saves_what_it_loads(checkpoint, model, tmp_path, dtype):
    model.save_pretrained(tmp_path, dtype)
    saved, original = load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert saved.keys() == original.keys()
    assert "ovis_llm.lm_head.weight" not in saved  # tied
    for name, tensor in original.items():
        assert saved[name].dtype == dtype and saved[name].equal(tensor.to(dtype)), name
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in checkpoint.iterdir())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == json.loads((checkpoint / "config.json").read_text()) | {"dtype": str(dtype).split(".")[1]}
    again = ArrCocOvis.from_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 for p in again.parameters())


def test_names_are_the_checkpoints(model):
    names = model.checkpoint_names()
    for name in [
        "sam_encoder.layers.3.attn.rel_pos_h",
        "sam_encoder.neck.layer_norm2.bias",
        "arr_coc_allocator.query_encoder.context.weight",
        "arr_coc_allocator.propositional.entropy_gain",
        "arr_coc_allocator.opponent.weights.bias",
        "arr_coc_compressor.prior_sharpness",
        "arr_coc_compressor.kind_embed.weight",
        "clip_vision_model.pre_layrnorm.weight",
        "clip_vision_model.encoder.layers.1.self_attn.out_proj.bias",
        "quality_adapter.norm.bias",
        "ovis_llm.model.layers.2.self_attn.q_norm.weight",
    ]:
        assert name in names
    assert names["arr_coc_compressor.fc1.weight"].shape == (5, 64, 64)
    assert names["arr_coc_allocator.query_encoder.pool.weight"].shape == (1, 32)
    assert names["quality_adapter.fc2.weight"].shape == (5, 96, 96)


def test_untied_head_is_in_the_checkpoint():
    config = copy.deepcopy(TINY)
    config["text_config"]["tie_word_embeddings"] = False
    assert "ovis_llm.lm_head.weight" in ArrCocOvis(config).checkpoint_names()


def test_shards_are_read(checkpoint, model, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    again = ArrCocOvis.from_pretrained(tmp_path).checkpoint_names()
    assert all(again[name].equal(p) for name, p in model.checkpoint_names().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("quality_adapter.shift"), "missing tensors: quality_adapter.shift"),
        (lambda t: t.update({"ovis_llm.lm_head.weight": torch.zeros(320, 96)}), "no place for: ovis_llm.lm_head"),
        (lambda t: t.update({"quality_adapter.shift": torch.zeros(4)}), r"quality_adapter.shift: .* \[5\], .* \[4\]"),
        (lambda t: t.update({"quality_adapter.shift": torch.zeros(5, dtype=torch.int32)}), "found torch.int32"),
    ],
)
def test_wrong_checkpoints_are_refused(checkpoint, tmp_path, change, message):
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        ArrCocOvis.from_pretrained(tmp_path)


def test_gradients_reach_every_trainable_parameter(checkpoint):
    model = ArrCocOvis.from_pretrained(checkpoint).train()
    torch.manual_seed(0)
    pixel_values, valid = torch.randn(1, 3, 512, 512), torch.ones(1, 1024, dtype=torch.bool)
    query_ids = torch.randint(0, 256, (1, 7))
    for tier, budget in enumerate(model.budgets):  # each tier has an adapter head of its own
        image = torch.full((1, budget), model.config["image_token_id"])
        input_ids = torch.cat([image, query_ids], dim=1)
        logits, _ = model(
            pixel_values, valid, query_ids, torch.ones_like(query_ids), input_ids, torch.ones_like(input_ids), tier
        )
        F.cross_entropy(logits[0, budget - 1 : -1], query_ids[0]).backward()
    for name, parameter in model.checkpoint_names().items():
        if any(name.startswith(prefix) for prefix in WITHOUT_GRADIENT):
            assert parameter.grad is None, name
        elif not name.endswith(ZERO_GRADIENT):
            # Rounding leaves 1e-9 where the gradient is zero (ZERO_GRADIENT); the smallest real one is near
            # 3e-4.
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name


def test_gradients_reach_the_tier_head_from_its_own_loss(model):
    features, query_ids, mask = scene(model, batch=1)
    head = copy.deepcopy(model.allocator).requires_grad_(True)
    allocation = head(features, model.embedding(query_ids), mask)
    F.cross_entropy(allocation.tier_logits, torch.tensor([3])).backward()
    assert all(p.grad.abs().max() > 0 for p in head.tier_head.parameters())


def test_batch_equals_single(model):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 512, 512, generator=generator)
    _, query_ids, mask = scene(model, batch=2)

    def run(rows: slice) -> list[torch.Tensor]:
        features = model.vision_encoder(pixels[rows])
        allocation = model.allocate(features, query_ids[rows], mask[rows])
        tokens, positions, indices = model.compressor(features, allocation.relevance, 100)
        refined = model.refiner(tokens, positions)
        return [features, *allocation, tokens, indices, model.quality_adapter(refined, torch.tensor([4, 1])[rows])]

    for together, first, second in zip(run(slice(0, 2)), run(slice(0, 1)), run(slice(1, 2)), strict=True):
        torch.testing.assert_close(together, torch.cat([first, second]), rtol=1e-5, atol=1e-5)


def test_native_size_equals_transformers(model):
    sam = SamVisionModel(model.sam.config).eval()
    sam.load_state_dict(model.sam.state_dict())
    pixels = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = sam(pixels).last_hidden_state.flatten(2).transpose(1, 2)  # [1, P, C]
    assert model.vision_encoder(pixels).equal(expected)


def test_other_sizes_are_encoded(model):
    assert model.vision_encoder(torch.zeros(1, 3, 640, 640)).shape == (1, 1600, 64)


def test_padding_of_the_question_changes_nothing(model):
    features, query_ids, mask = scene(model, batch=1)
    padded = torch.cat([query_ids, torch.tensor([[9, 200, 31]])], dim=1)  # whatever the padding's ids
    padded_mask = torch.cat([mask, torch.zeros(1, 3, dtype=mask.dtype)], dim=1)
    for alone, among in zip(
        model.allocate(features, query_ids, mask), model.allocate(features, padded, padded_mask), strict=True
    ):
        torch.testing.assert_close(among, alone, rtol=1e-5, atol=1e-6)


def test_the_question_matters(model):
    features, query_ids, mask = scene(model, batch=1)
    one, other = (model.allocate(features, ids, mask).relevance for ids in (query_ids, query_ids.flip(1)))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("s", [32, 40, 50, 64, 80])
def test_gist_grid_covers_the_image(s):
    g = 4
    member = gist_membership(s, g, torch.device("cpu"))  # [G, P]
    assert ((member > 0).sum(0) == 1).all()  # every patch is in one cell
    torch.testing.assert_close(member.sum(1), torch.ones(g * g))  # which is a mean
    cell = member.argmax(0)  # [P]
    at = patch_positions(s, torch.device("cpu"))  # [P, 2]
    centres = patch_positions(g, torch.device("cpu"))[cell]  # [P, 2]
    # The patch lies in its cell, give or take the patch that a cell's border cuts.
    assert ((at - centres).abs() <= 0.5 / g + 1 / s).all()


def test_tokens_are_the_gist_then_the_most_relevant(model):
    features, _, _ = scene(model, batch=1)
    relevance = torch.full((1, 1024), 0.5)
    relevance[0, [700, 3]] = torch.tensor([0.9, 0.8])
    relevance[0, :2] = -1  # padding
    _, positions, indices = model.compressor(features, relevance, 64)
    assert indices[0, :16].tolist() == list(range(1024, 1040))
    # Ties go to the lower index, and padding is passed over.
    assert indices[0, 16:].tolist() == [700, 3, 2, *range(4, 49)]
    assert positions[0, 16].tolist() == [(700 // 32 + 0.5) / 32, (700 % 32 + 0.5) / 32]


def test_too_many_tokens_are_refused(model):
    with pytest.raises(ValueError, match="expected 1 to 80 tokens for 64 patches, found 100"):
        model.compressor(torch.zeros(1, 64, 64), torch.zeros(1, 64), 100)


def test_tiers_that_the_image_cannot_fill_are_not_chosen(model):
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    valid = torch.zeros(1, 1024, dtype=torch.bool)
    valid[:, :144] = True  # and 16 gist cells: 160 tokens
    assert model.choose_tier(logits, valid).tolist() == [2]
    assert model.choose_tier(logits, ~valid).tolist() == [4]


def test_positions_are_sampled_as_bilinear_interpolation(model):
    table = torch.randn(256, 8, generator=torch.Generator().manual_seed(3))  # 16 x 16
    centres = patch_positions(16, torch.device("cpu"))[None]
    torch.testing.assert_close(sample_positions(table, centres)[0], table, rtol=0, atol=1e-5)
    grid = table.T.reshape(1, 8, 16, 16)
    expected = F.interpolate(grid, (32, 32), mode="bilinear", align_corners=False).flatten(2)[0].T
    sampled = sample_positions(table, patch_positions(32, torch.device("cpu"))[None])[0]
    torch.testing.assert_close(sampled, expected, rtol=0, atol=1e-5)


def test_adapter_meets_its_targets(model):
    adapter = copy.deepcopy(model.quality_adapter)
    tokens = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(4))
    adapter.scale.fill_(1), adapter.shift.fill_(0), adapter.threshold.fill_(0)
    embeds = adapter(tokens, torch.tensor([2]))
    assert embeds.mean().abs() < 1e-6 and abs(embeds.std(correction=0) - 0.02) < 1e-5
    adapter.threshold.fill_(0.5)
    sparsity = (adapter(tokens, torch.tensor([2])) == 0).float().mean()
    assert 0.2 < sparsity < 0.6  # a normal distribution has 0.38 within half a deviation


def test_cached_decoding_equals_whole(model):
    embeds = torch.randn(1, 20, 96, generator=torch.Generator().manual_seed(5)) * 0.02
    ids, logits = model.greedy(embeds, steps=8)
    whole = torch.cat([embeds, model.embedding(ids[None, :-1])], dim=1)
    expected = model.llm(inputs_embeds=whole, use_cache=False).logits[0, 19:]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert len(model.greedy(embeds, steps=8, stop=(int(ids[0]),))[0]) == 1


def test_prompt(checkpoint):
    prompter = Prompter(checkpoint, 261)
    assert prompter.tokenizer.decode(prompter.query_ids("Où?")[0]) == "Où?"
    assert prompter.query_ids("Où?").shape == (1, 4)  # one token per byte of UTF-8
    ids = prompter.prompt_ids("Hi")
    assert prompter.tokenizer.decode(ids[0]) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (prompter.expand(ids, 64) == 261).sum() == 64
    assert prompter.expand(ids, 64).shape[1] == ids.shape[1] + 63


def test_image_tokens_must_match_visual_embeds(model):
    with pytest.raises(ValueError, match="found 2 and 3"):
        model.prompt_embeds(torch.tensor([[261, 261, 5]]), torch.zeros(1, 3, 96))


def test_preprocessing_pads_right_and_below(checkpoint):
    pixel_values, valid = Preprocessor(checkpoint, 16)(Image.new("RGB", (300, 200), "white"), 512)
    assert pixel_values.shape == (1, 3, 512, 512)
    # 300 x 200 becomes 512 x 341, and row 21 of the patches holds the last 5 pixel rows.
    assert valid.view(32, 32)[:22].all() and not valid.view(32, 32)[22:].any()
    assert (pixel_values[:, :, 341:] == 0).all() and (pixel_values[:, :, :341] > 2).all()
    resized = Preprocessor(checkpoint, 16).resized(Image.new("RGB", (300, 200), "white"), 512)
    assert resized.shape == (341, 512, 3) and (resized == 255).all() and resized.dtype == torch.uint8
