"""One training step: pages and questions in, the loss and what to log out.

Letters are those of arrcoc_reference's docstring; G pages, N questions, S the longest text behind the image.
"""

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arrcoc_reference import ArrCocOvis
from arrcoc_reference.arms import Arm, GridNeck, grid_side, neutral, ranked, uniform_scores

from .data import IGNORED, Batch
from .losses import PatchReader, consistency_loss, distribution_loss, relevance_loss, sparsity_loss, tier_targets

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Choice:
    """What the compressor is given in this step."""

    arm: Arm
    budget: int


class Learner(nn.Module):
    """The model and what only its training needs."""

    def __init__(self, model: ArrCocOvis):
        super().__init__()
        channels = model.sam.config.output_channels
        self.model = model
        self.reader = PatchReader(channels)
        self.neck = GridNeck(channels)
        self.gist = model.compressor.gist_grid**2
        self.register_buffer("uniform", uniform_scores(400), persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """What a phase's `train` may name."""
        m = self.model
        return {
            "sam": m.sam, "allocator": m.allocator, "compressor": m.compressor, "clip": m.clip,
            "quality_adapter": m.quality_adapter, "llm": m.llm, "reader": self.reader, "neck": self.neck,
        }  # fmt: skip

    def encode(self, pixels: Tensor, side: int | None = None) -> Tensor:
        """uint8 [G, 320, 320, 3] -> image_features [G, P, C]; `side`: shrink the page to so many patches first."""
        x = pixels.permute(0, 3, 1, 2).float() / 255  # [G, 3, 320, 320]
        if side is not None:
            size = side * self.model.config["vision_config"]["patch_size"]
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)  # [G, 3, size, size]
        mean, std = (x.new_tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
        return self.model.vision_encoder((x - mean) / std)

    def tier(self, budget: int) -> int:
        """The quality adapter's head for any budget: the tier nearest in log scale."""
        distances = [abs(math.log(budget / b)) for b in self.model.budgets]
        return distances.index(min(distances))

    def embed(self, features: Tensor, relevance: Tensor, tokens: int, tier: int) -> tuple[Tensor, Tensor]:
        """[N, P, C], [N, P] -> visual_embeds [N, T, H] and the refined tokens [N, T, D] they come from."""
        visual, positions, _ = self.model.compressor(features, relevance, tokens)  # [N, T, D]
        refined = self.model.refiner(visual, positions)  # [N, T, D]
        which = torch.full((len(refined),), tier, device=refined.device)
        return self.model.quality_adapter(refined, which), refined

    def answer(self, batch: Batch, visual_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """The task loss [], and which answers are right to the last token [N]: greedy decoding would give them."""
        n = len(batch.page)
        before = self.model.embedding(batch.before).expand(n, -1, -1)  # [N, B0, H]
        after = self.model.embedding(batch.after)  # [N, S, H]
        embeds = torch.cat([before, visual_embeds.to(after.dtype), after], dim=1)  # [N, B0+T+S, H]
        hidden = self.model.llm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return self.judge(hidden[:, -after.shape[1] :], batch.labels)

    def judge(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [N, S, H], labels [N, S] -> loss [], right [N]."""
        asked = labels != IGNORED  # [N, S]
        logits = self.model.llm.lm_head(hidden[asked]).float()  # [answer tokens, V]
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        wrong[asked] = logits.argmax(-1) != labels[asked]
        return F.cross_entropy(logits, labels[asked]), ~wrong.any(-1)

    def inputs(self, choice: Choice, batch: Batch, features: Tensor, relevance: Tensor, blind: Tensor, seed: int):
        """What the compressor is given: features [N, P, C], relevance [N, P], how many tokens.

        `relevance` [N, P] knows the question, `blind` [N, P] does not."""
        arm, budget = choice.arm, choice.budget
        features = features[batch.page]  # [N, P, C]
        if arm is Arm.QUERY_AWARE:
            return features, relevance, budget
        if arm is Arm.QUERY_AWARE_CHOICE:
            return features, ranked(relevance.detach()), budget
        if arm is Arm.AGNOSTIC:
            return features, ranked(blind.detach()), budget
        if arm is Arm.UNIFORM:
            return features, ranked(self.uniform.expand(len(features), -1)), budget
        if arm is Arm.RANDOM:
            scores = torch.rand(features.shape[:2], generator=torch.Generator().manual_seed(seed))
            return features, ranked(scores), budget
        if arm is Arm.GRID:
            grid = self.neck(features, grid_side(budget))  # [N, n*n, C]
            return grid, neutral(grid), grid.shape[1] + self.gist
        # Full, and the smaller page: every patch there is.
        return features, neutral(features), features.shape[1] + self.gist


def step_text(learner: Learner, ids: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The decoder's own pretraining: ids and labels [N, S]."""
    hidden = learner.model.llm.model(input_ids=ids, use_cache=False).last_hidden_state
    loss, right = learner.judge(hidden, labels)
    return loss, {"task": loss.item(), "exact": right.float().mean().item()}


def step_patches(learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The encoder's own pretraining."""
    loss, read = learner.reader(learner.encode(batch.pixels), batch.kind, batch.slots, batch.glyphs)
    return loss, {"reader": loss.item(), "read": read.item()}


def step(learner: Learner, batch: Batch, choice: Choice, weights: dict[str, float], seed: int):
    """The whole chain: weighted loss, and what to log."""
    model, rng = learner.model, random.Random(seed)
    losses: dict[str, Tensor] = {}
    log = {}
    if choice.arm is Arm.DOWNSAMPLED:
        features = learner.encode(batch.pixels, grid_side(choice.budget))  # [G, n*n, C]
        relevance = blind = features
    else:
        features = learner.encode(batch.pixels)  # [G, P, C]
        losses["reader"], read = learner.reader(features, batch.kind, batch.slots, batch.glyphs)
        log["read"] = read.item()
        losses["relevance"], losses["tier"], relevance, blind = allocate(learner, batch, features)

    given, relevance, tokens = learner.inputs(choice, batch, features, relevance, blind, seed)
    tier = learner.tier(choice.budget)
    visual_embeds, refined = learner.embed(given, relevance, tokens, tier)  # [N, T, H], [N, T, D]
    losses["task"], right = learner.answer(batch, visual_embeds)

    table = model.llm.get_input_embeddings().weight.detach()  # [V, H]
    mean, std = table.mean(), table.std()
    losses["distribution"] = distribution_loss(visual_embeds, mean, std)
    losses["sparsity"] = sparsity_loss(visual_embeds, std, model.config["adapter_config"]["target_sparsity"])
    other = rng.choice([t for t in range(len(model.budgets)) if t != tier])
    again = model.quality_adapter(refined, torch.full((len(refined),), other))  # [N, T, H]
    losses["consistency"] = consistency_loss(visual_embeds, again)

    log |= {name: loss.item() for name, loss in losses.items()}
    log |= {"arm": str(choice.arm), "budget": choice.budget, "exact": right.float().mean().item()}
    if batch.one_place.any():
        log["exact_one_place"] = right[batch.one_place].float().mean().item()
    return sum(weights[name] * loss for name, loss in losses.items()), log


def allocate(learner: Learner, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of relevance and of the tier's choice, and two relevances [N, P]: with the question, and without one."""
    model = learner.model
    allocation = model.allocate(features[batch.page], batch.query_ids, batch.query_mask)
    anything = batch.kind > 0  # [G, P]
    loss = relevance_loss(allocation.relevance, batch.evidence)
    # What takes part answers to the question, what is there does not.
    loss = loss + 0.5 * relevance_loss(allocation.knowing[:, 2], batch.evidence)
    loss = loss + 0.2 * relevance_loss(allocation.knowing[:, 0], anything[batch.page])

    # The empty question: one token that says nothing. (A mask of zeros would leave nothing to attend to.)
    nothing = features.new_zeros(len(features), 1, model.config["text_config"]["hidden_size"])  # [G, 1, H]
    blind = model.allocator(features, nothing, nothing[:, :, 0] + 1).relevance  # [G, P]
    loss = loss + 0.5 * relevance_loss(blind, anything)

    targets = tier_targets(batch.evidence, learner.gist, model.budgets)  # [N]
    tier = F.cross_entropy(allocation.tier_logits.float(), targets)
    return loss, tier, allocation.relevance, blind[batch.page]
