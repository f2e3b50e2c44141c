"""The composite model: SAM, allocator, compressor, CLIP, quality adapter and Qwen3, and its checkpoint.

Letters are those of the package's docstring.
"""

import json
import shutil
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, DynamicCache, Qwen3Config, Qwen3ForCausalLM
from transformers import SamVisionConfig, SamVisionModel
from transformers.initialization import no_init_weights

from .allocator import Allocation, Allocator
from .compressor import Compressor
from .quality_adapter import QualityAdapter
from .vision import encode_image, refine

# Module tree (left) to checkpoint (right). Below these prefixes the names are the same: transformers 5.23
# calls the parameters of its models as the checkpoint does. (4.x has one more `vision_model.` below
# CLIPVisionModel.)
PREFIXES = {
    "sam.vision_encoder.": "sam_encoder.",
    "allocator.": "arr_coc_allocator.",
    "compressor.": "arr_coc_compressor.",
    "clip.": "clip_vision_model.",
    "quality_adapter.": "quality_adapter.",
    "llm.": "ovis_llm.",
}
# What a checkpoint has besides config.json and the weights.
ASSETS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
)
# Stands for the relevance of patches outside the image: picked after every patch inside it.
PADDING_RELEVANCE = -1.0


class CheckpointError(Exception):
    """What was expected, what was found, and where."""


class ArrCocOvis(nn.Module):
    def __init__(self, config: dict):
        """`config` is the checkpoint's config.json."""
        super().__init__()
        if config.get("model_type") != "arr_coc_ovis":
            raise CheckpointError(f"expected model_type arr_coc_ovis, found {config.get('model_type')!r}")
        self.config = config
        self.budgets: list[int] = config["token_budgets"]
        sam = SamVisionConfig.from_dict(config["vision_config"])
        clip = CLIPVisionConfig.from_dict(config["clip_config"])
        text = Qwen3Config.from_dict(config["text_config"])
        allocator, compressor, adapter = (config[f"{k}_config"] for k in ("allocator", "compressor", "adapter"))
        tiers = len(self.budgets)

        self.sam = SamVisionModel(sam)
        self.allocator = Allocator(
            sam.output_channels, text.hidden_size, allocator["hidden_size"], allocator["num_attention_heads"], tiers
        )
        self.compressor = Compressor(
            sam.output_channels, clip.hidden_size, compressor["hidden_size"], compressor["gist_grid"], self.budgets
        )
        self.clip = CLIPVisionModel(clip)
        self.quality_adapter = QualityAdapter(
            clip.hidden_size, adapter["hidden_size"], text.hidden_size, tiers,
            adapter["target_mean"], adapter["target_std"],
        )  # fmt: skip
        self.llm = Qwen3ForCausalLM(text)

    # The stages, as the exported graphs cut them.

    def embedding(self, input_ids: Tensor) -> Tensor:
        return self.llm.get_input_embeddings()(input_ids)  # [B, S] -> [B, S, H]

    def vision_encoder(self, pixel_values: Tensor) -> Tensor:
        return encode_image(self.sam.vision_encoder, pixel_values)  # [B, 3, h, w] -> [B, P, C]

    def allocate(self, image_features: Tensor, query_ids: Tensor, query_mask: Tensor) -> Allocation:
        """image_features [B, P, C], query_ids [B, Q], query_mask [B, Q]."""
        return self.allocator(image_features, self.embedding(query_ids), query_mask)

    @staticmethod
    def mask_relevance(relevance: Tensor, valid: Tensor) -> Tensor:
        return relevance.masked_fill(~valid, PADDING_RELEVANCE)  # [B, P], valid [B, P] -> [B, P]

    def refiner(self, visual_tokens: Tensor, token_positions: Tensor) -> Tensor:
        return refine(self.clip, visual_tokens, token_positions)  # [B, T, D], [B, T, 2] -> [B, T, D]

    def choose_tier(self, tier_logits: Tensor, valid: Tensor) -> Tensor:
        """The best tier that the image can fill: tier_logits [B, E], valid [B, P] -> [B]."""
        available = valid.sum(-1, keepdim=True) + self.compressor.gist_grid**2  # [B, 1]
        too_large = torch.tensor(self.budgets, device=valid.device) > available  # [B, E]
        return tier_logits.masked_fill(too_large, -torch.inf).argmax(-1)

    # Their composition.

    def visual_embeds(self, image_features: Tensor, masked_relevance: Tensor, tier: int) -> Tensor:
        """All images of a batch at one tier: [B, P, C], [B, P] -> [B, T, H]."""
        tokens, positions, _ = self.compressor(image_features, masked_relevance, self.budgets[tier])  # [B, T, D]
        refined = self.refiner(tokens, positions)  # [B, T, D]
        return self.quality_adapter(refined, torch.full((len(refined),), tier, device=refined.device))  # [B, T, H]

    def prompt_embeds(self, input_ids: Tensor, visual_embeds: Tensor) -> Tensor:
        """input_ids [B, S] with T image tokens per image, visual_embeds [images, T, H] in their order -> [B, S, H]."""
        embeds = self.embedding(input_ids)  # [B, S, H]
        at = (input_ids == self.config["image_token_id"])[:, :, None].expand_as(embeds)  # [B, S, H]
        if at.sum() != visual_embeds.numel():
            raise ValueError(
                f"expected as many image tokens as visual embeddings, found {int(at[:, :, 0].sum())} "
                f"and {visual_embeds.shape[0] * visual_embeds.shape[1]}; expand the prompt's image tokens"
            )
        return embeds.masked_scatter(at, visual_embeds)

    def forward(
        self,
        pixel_values: Tensor,  # [B, 3, h, w]
        valid: Tensor,  # [B, P]
        query_ids: Tensor,  # [B, Q]
        query_mask: Tensor,  # [B, Q]
        input_ids: Tensor,  # [B, S] right padded, image tokens expanded to the tier's budget
        attention_mask: Tensor,  # [B, S]
        tier: int,
    ) -> tuple[Tensor, Allocation]:
        """One training pass: the decoder's logits [B, S, V], and the allocation for auxiliary losses.

        The choice of the tier has no gradient here: tier_head learns from a loss on `tier_logits` alone."""
        image_features = self.vision_encoder(pixel_values)  # [B, P, C]
        allocation = self.allocate(image_features, query_ids, query_mask)
        relevance = self.mask_relevance(allocation.relevance, valid)  # [B, P]
        visual_embeds = self.visual_embeds(image_features, relevance, tier)  # [B, T, H]
        embeds = self.prompt_embeds(input_ids, visual_embeds)  # [B, S, H]
        logits = self.llm(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False).logits  # [B, S, V]
        return logits, allocation

    @torch.no_grad()
    def greedy(self, inputs_embeds: Tensor, steps: int, stop: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """inputs_embeds [1, S, H] -> ids [N] and the logits [N, V] they were taken from, N = steps or, at a token
        of `stop`, fewer. Later steps feed one token to transformers' KV cache."""
        cache, ids, logits = DynamicCache(config=self.llm.config), [], []
        for _ in range(steps):
            out = self.llm(inputs_embeds=inputs_embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits.append(out.logits[0, -1])  # [V]
            ids.append(logits[-1].argmax())  # []
            if int(ids[-1]) in stop:
                break
            inputs_embeds = self.embedding(ids[-1][None, None])  # [1, 1, H]
        return torch.stack(ids), torch.stack(logits)

    # Its checkpoint.

    def checkpoint_names(self) -> dict[str, nn.Parameter]:
        """Every parameter under its name in the checkpoint; a tied lm_head is not there."""
        names = {}
        for name, parameter in self.named_parameters(remove_duplicate=True):
            prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
            names[PREFIXES[prefix] + name.removeprefix(prefix)] = parameter
        return names

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Reads a checkpoint into fp32, whatever it is stored in. Every tensor must be there, and none besides."""
        directory = Path(directory)
        with no_init_weights():  # drawing 1 B random numbers takes half a minute
            model = cls(json.loads((directory / "config.json").read_text()))
        model.llm.tie_weights()  # part of the initialisation that was left out
        expected, found = model.checkpoint_names(), weight_files(directory)
        if missing := sorted(expected.keys() - found.keys()):
            raise CheckpointError(f"{directory}: missing tensors: {', '.join(missing)}")
        if extra := sorted(found.keys() - expected.keys()):
            raise CheckpointError(f"{directory}: tensors that this model has no place for: {', '.join(extra)}")
        for file in sorted(set(found.values())):
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                for name in tensors.keys():
                    tensor, parameter = tensors.get_tensor(name), expected[name]
                    if tensor.shape != parameter.shape or not tensor.is_floating_point():
                        raise CheckpointError(
                            f"{file}: {name}: expected floats of shape {list(parameter.shape)}, "
                            f"found {tensor.dtype} of shape {list(tensor.shape)}"
                        )
                    parameter.copy_(tensor)
        model.directory = directory
        return model.eval()

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes config.json and model.safetensors, and copies the other files of the checkpoint this one was read
        from, if it was."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {**self.config, "dtype": str(dtype).removeprefix("torch.")}
        config.pop("torch_dtype", None)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: p.detach().to(dtype).contiguous() for name, p in self.checkpoint_names().items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        source = getattr(self, "directory", directory)
        if source.resolve() != directory.resolve():
            for name in ASSETS:
                shutil.copyfile(source / name, directory / name)


def weight_files(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor: one model.safetensors, or shards under an index."""
    index = directory / "model.safetensors.index.json"
    files = {directory / "model.safetensors"}
    if index.exists():
        files = {directory / file for file in json.loads(index.read_text())["weight_map"].values()}
    found = {}
    for file in files:
        if not file.exists():
            raise CheckpointError(f"expected weights in {file}, found no such file")
        with safe_open(file, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found
