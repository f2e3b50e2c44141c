"""One training step: pages and questions in, the loss and what to log out.

Letters are those of arrcoc_reference's docstring; G pages, M conversations, N questions, S the longest text behind the image.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from write_checkpoint import IMAGE_MEAN, IMAGE_STD

from arrcoc_ledger.labels import SYMBOLS
from arrcoc_reference import ArrCocOvis
from arrcoc_reference.arms import Arm, GridNeck, grid_side, neutral, ranked, uniform_scores

from .data import IGNORED, Batch, Codes, Talk
from .losses import (
    Codebook, PatchReader, alignment_loss, consistency_loss, distribution_loss, relevance_loss, sparsity_loss, tier_targets,
)  # fmt: skip



def normalised(pixels: Tensor) -> Tensor:
    """uint8 [G, h, w, 3] -> [G, 3, h, w], as the checkpoint's image processor does it."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@dataclass(frozen=True)
class Choice:
    """What the compressor is given in this step."""

    arm: Arm
    budget: int


class Learner(nn.Module):
    """The model and what only its training needs."""

    def __init__(self, model: ArrCocOvis, tok: Tokenizer):
        super().__init__()
        channels = model.sam.config.output_channels
        self.model = model
        self.reader = PatchReader(channels)
        symbol_ids = [tok.encode(symbol, add_special_tokens=False).ids for symbol in SYMBOLS]
        self.codebook = Codebook(model.config["text_config"]["hidden_size"], symbol_ids, tok.get_vocab_size())
        # Sequences are short: its backward pass is faster than that of PyTorch's fused attention.
        model.llm.set_attn_implementation("eager")
        self.neck = GridNeck(channels)
        self.gist = model.compressor.gist_grid**2
        self.register_buffer("uniform", uniform_scores(400), persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """What a phase's `train` may name."""
        m = self.model
        return {
            "sam": m.sam, "allocator": m.allocator, "compressor": m.compressor, "clip": m.clip,
            "quality_adapter": m.quality_adapter, "llm": m.llm, "reader": self.reader, "codebook": self.codebook,
            "neck": self.neck,
        }  # fmt: skip

    def encode(self, pixels: Tensor, side: int | None = None) -> Tensor:
        """uint8 [G, 320, 320, 3] -> image_features [G, P, C]; `side`: shrink the page to so many patches first."""
        x = normalised(pixels)  # [G, 3, 320, 320]
        if side is not None:
            size = side * self.model.config["vision_config"]["patch_size"]
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)  # [G, 3, size, size]
        return self.model.vision_encoder(x)

    def tier(self, budget: int) -> int:
        """The quality adapter's head for any budget: the tier nearest in log scale, the lower one of two."""
        budgets = self.model.budgets
        # Between two tiers the border is their geometric mean, compared without rounding.
        return sum(budget**2 > low * high for low, high in zip(budgets, budgets[1:]))

    def table(self) -> Tensor:
        """The decoder's own input embeddings [V, H]."""
        return self.model.llm.get_input_embeddings().weight

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Their mean and standard deviation."""
        table = self.table().detach()
        return table.mean(), table.std()

    def embed(self, features: Tensor, relevance: Tensor, tokens: int, tier: int) -> tuple[Tensor, Tensor, Tensor]:
        """[M, P, C], [M, P] -> visual_embeds [M, T, H], the refined tokens [M, T, D] they come from, and which patches
        they show [M, T]."""
        visual, positions, indices = self.model.compressor(features, relevance, tokens)  # [M, T, D]
        refined = self.model.refiner(visual, positions)  # [M, T, D]
        which = torch.full((len(refined),), tier, device=refined.device)
        return self.model.quality_adapter(refined, which), refined, indices

    def answer(self, talk: Talk, visual_embeds: Tensor, questions: int) -> tuple[Tensor, Tensor]:
        """The task loss [], and which answers are right to the last token [N]: greedy decoding would give them."""
        before = self.model.embedding(talk.before).expand(len(talk.after), -1, -1)  # [M, B0, H]
        after = self.model.embedding(talk.after)  # [M, S, H]
        embeds = torch.cat([before, visual_embeds.to(after.dtype), after], dim=1)  # [M, B0+T+S, H]
        hidden = self.model.llm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        asked = talk.labels != IGNORED  # [M, S]
        logits = self.model.llm.lm_head(hidden[:, -after.shape[1] :][asked]).float()  # [answer tokens, V]
        labels = talk.labels[asked]  # [answer tokens]
        wrong = torch.zeros(questions).index_add(0, talk.question[asked], (logits.argmax(-1) != labels).float())
        return F.cross_entropy(logits, labels), wrong == 0

    def inputs(self, choice: Choice, batch: Batch, features: Tensor, relevance: Tensor, blind: Tensor, seed: int):
        """What the compressor is given: features [M, P, C], relevance [M, P], how many tokens.

        `relevance` [N, P] knows the question, `blind` [G, P] does not. A conversation of several questions gets the tokens
        that any of them needs."""
        arm, budget = choice.arm, choice.budget
        features = features[batch.page]  # [M, P, C]
        relevance, blind = relevance.unflatten(0, (-1, batch.turns)).amax(1), blind[batch.page]  # [M, P], [M, P]
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


def step_codes(learner: Learner, codes: Codes, seed: int) -> tuple[Tensor, dict[str, float]]:
    """The decoder's own pretraining: questions about pages whose tokens are the codes of what stands on them."""
    _, std = learner.statistics()
    tokens = learner.codebook(codes.kind, codes.slots, codes.relevance, learner.table())  # [M, T, H]
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(seed))  # [M, T, H]
    tokens = tokens + 0.3 * std * noise
    questions = int(codes.talk.question.max()) + 1
    loss, right = learner.answer(codes.talk, tokens, questions)
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
        blind = features[:, :, 0]  # [G, n*n] not looked at
        relevance = blind[batch.page].repeat_interleave(batch.turns, 0)  # [N, n*n]
    else:
        features = learner.encode(batch.pixels)  # [G, P, C]
        losses["reader"], read = learner.reader(features, batch.kind, batch.slots, batch.glyphs)
        log["read"] = read.item()
        losses["relevance"], losses["tier"], relevance, blind = allocate(learner, batch, features)

    given, relevance, tokens = learner.inputs(choice, batch, features, relevance, blind, seed)
    tier = learner.tier(choice.budget)
    visual_embeds, refined, indices = learner.embed(given, relevance, tokens, tier)  # [M, T, H], [M, T, D], [M, T]
    mean, std = learner.statistics()
    if choice.arm not in (Arm.GRID, Arm.DOWNSAMPLED):
        losses["alignment"] = align(learner, batch, visual_embeds, relevance, indices)
    losses["task"], right = learner.answer(batch.talk, visual_embeds, len(batch.one_place))
    losses["distribution"] = distribution_loss(visual_embeds, mean, std)
    losses["sparsity"] = sparsity_loss(visual_embeds, std, model.config["adapter_config"]["target_sparsity"])
    other = rng.choice([t for t in range(len(model.budgets)) if t != tier])
    again = model.quality_adapter(refined, torch.full((len(refined),), other))  # [M, T, H]
    losses["consistency"] = consistency_loss(visual_embeds, again)

    log |= {name: loss.item() for name, loss in losses.items()}
    log |= {"arm": str(choice.arm), "budget": choice.budget, "exact": right.float().mean().item()}
    if batch.one_place.any():
        log["exact_one_place"] = right[batch.one_place].float().mean().item()
    return sum(weights[name] * loss for name, loss in losses.items()), log


def align(learner: Learner, batch: Batch, visual_embeds: Tensor, relevance: Tensor, indices: Tensor) -> Tensor:
    """A patch's token against the code of what the patch shows: CLIP's part of the pretraining. visual_embeds [M, T, H],
    relevance [M, P], indices [M, T]; the first tokens are the gist and are left out."""
    fine = indices[:, learner.gist :]  # [M, F]
    kind = batch.kind[batch.page].gather(1, fine)  # [M, F]
    slots = batch.slots[batch.page].gather(1, fine[:, :, None].expand(-1, -1, batch.slots.shape[2]))  # [M, F, 5]
    relevance = relevance.detach().relu().gather(1, fine)  # [M, F]
    codes = learner.codebook(kind, slots, relevance, learner.table()).detach()  # [M, F, H]
    return alignment_loss(visual_embeds[:, learner.gist :], codes, kind)


def allocate(learner: Learner, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of relevance and of the tier's choice, and two relevances: with the question [N, P], and without one [G, P]."""
    model = learner.model
    page = batch.page.repeat_interleave(batch.turns)  # [N]
    # In full precision: in bfloat16 relevances would be equal by the dozen, and their order that of the
    # patches.
    with torch.autocast("cpu", enabled=False):
        return allocate_exactly(model, batch, page, features.float(), learner.gist)


def allocate_exactly(model: ArrCocOvis, batch: Batch, page: Tensor, features: Tensor, gist: int):
    """features [G, P, C], page [N]: the page of each question."""
    allocation = model.allocate(features[page], batch.query_ids, batch.query_mask)
    anything = batch.kind > 0  # [G, P]
    loss = relevance_loss(allocation.relevance, batch.evidence)
    # What takes part answers to the question, what is there does not.
    loss = loss + 0.5 * relevance_loss(allocation.knowing[:, 2], batch.evidence)
    loss = loss + 0.2 * relevance_loss(allocation.knowing[:, 0], anything[page])

    # The empty question: one token that says nothing. (A mask of zeros would leave nothing to attend to.)
    nothing = features.new_zeros(len(features), 1, model.config["text_config"]["hidden_size"])  # [G, 1, H]
    blind = model.allocator(features, nothing, nothing[:, :, 0] + 1).relevance  # [G, P]
    loss = loss + 0.5 * relevance_loss(blind, anything)

    targets = tier_targets(batch.evidence, gist, model.budgets)  # [N]
    tier = F.cross_entropy(allocation.tier_logits.float(), targets)
    return loss, tier, allocation.relevance, blind
