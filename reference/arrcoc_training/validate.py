"""Held-out accuracy by arm, and the quality adapter's statistics by tier, at every checkpoint."""

import random

import torch
from tokenizers import Tokenizer

from arrcoc_ledger import ONE_PLACE, draw_page
from arrcoc_reference import ArrCocOvis
from arrcoc_reference.arms import Arm

from .data import Text, draw_question, make_batch, page_spec
from .step import Choice, Learner, allocate

PAGES, QUESTIONS = 64, 2
RECORDS = 40
CHOICES = [
    Choice(Arm.QUERY_AWARE, 16), Choice(Arm.QUERY_AWARE, 64), Choice(Arm.QUERY_AWARE_CHOICE, 64), Choice(Arm.AGNOSTIC, 64),
    Choice(Arm.GRID, 64), Choice(Arm.DOWNSAMPLED, 64), Choice(Arm.FULL, 400),
]  # fmt: skip


def held_out(config: dict, tok: Tokenizer):
    """The same pages and one-place questions every time, none of which training sees."""
    rng = random.Random("validation")
    pages = [draw_page(rng, page_spec(rng, config["pages"], RECORDS)) for _ in range(PAGES)]
    topics = {topic: share for topic, share in config["topics"].items() if topic in ONE_PLACE}
    talks = [(g, [draw_question(rng, page, topics)]) for g, page in enumerate(pages) for _ in range(QUESTIONS)]
    return make_batch(Text(tok), pages, talks), [turns[0].topic for _, turns in talks]


@torch.no_grad()
def validate(learner: Learner, config: dict, tok: Tokenizer) -> dict:
    batch, topics = held_out(config, tok)
    result: dict = {"exact": {}, "adapter": {}}
    learner.eval()
    with torch.autocast("cpu", torch.bfloat16):
        whole = learner.encode(batch.pixels)  # [G, P, C]
        _, read = learner.reader(whole, batch.kind, batch.slots, batch.glyphs)
        result["read"] = round(read.item(), 4)
        _, _, relevance, blind = allocate(learner, batch, whole)
        best = relevance.topk(60, dim=-1).indices  # [N, 60] the fine patches of the smallest tier
        hit = batch.evidence.gather(1, best).sum(-1) / batch.evidence.sum(-1).clamp(min=1)
        result["recall_64"] = round(hit.mean().item(), 4)
        for choice in CHOICES:
            small = choice.arm is Arm.DOWNSAMPLED
            features = learner.encode(batch.pixels, 8) if small else whole
            given, cue, tokens = learner.inputs(choice, batch, features, relevance, blind, 0)
            embeds, _, _ = learner.embed(given, cue, tokens, learner.tier(choice.budget))
            _, right = learner.answer(batch.talk, embeds, len(topics))
            result["exact"][f"{choice.arm}@{choice.budget}"] = round(right.float().mean().item(), 4)
            if choice == Choice(Arm.QUERY_AWARE, 64):
                for topic in sorted(set(topics)):
                    mine = torch.tensor([t == topic for t in topics])
                    result["exact"][f"{topic}@64"] = round(right[mine].float().mean().item(), 4)
        for tier, budget in enumerate(learner.model.budgets):
            embeds, _, _ = learner.embed(whole[batch.page[:16]], relevance[:16], budget, tier)
            result["adapter"][budget] = statistics(embeds.float())
    learner.train()
    return result


def statistics(visual_embeds: torch.Tensor) -> dict[str, float]:
    near_zero = (visual_embeds.abs() < 1e-6).float().mean().item()
    return {
        "mean": round(visual_embeds.mean().item(), 6),
        "std": round(visual_embeds.std().item(), 6),
        "sparsity": round(near_zero, 4),
    }


def aim_adapter(model: ArrCocOvis) -> None:
    """Lets an adapter that is still untrained begin at the statistics of the decoder's embeddings."""
    table = model.llm.get_input_embeddings().weight
    set_adapter_target(model, table.mean().item(), table.std().item())


def set_adapter_target(model: ArrCocOvis, mean: float, std: float) -> None:
    model.quality_adapter.target_mean, model.quality_adapter.target_std = mean, std
    model.config["adapter_config"].update(target_mean=mean, target_std=std)


@torch.no_grad()
def rebase_adapter(model: ArrCocOvis) -> None:
    """Makes the targets of the configuration those of the decoder's embeddings as they are now, and changes `scale` and
    `shift` so that the function stays what it was."""
    table = model.llm.get_input_embeddings().weight
    mean, std = table.mean().item(), table.std().item()
    adapter = model.quality_adapter
    shift = (adapter.shift * adapter.target_std + adapter.target_mean - mean) / std
    adapter.scale.mul_(adapter.target_std / std)
    adapter.shift.copy_(shift)
    set_adapter_target(model, mean, std)
