"""Training: the pieces do what they say, and a killed run goes on as if nothing had been."""

import copy
import math
import random

import pytest
import torch
import train as train_script
import yaml
from arrcoc_ledger import ONE_PLACE, Kind, PageSpec, Topic, ask, draw_page, imagine
from arrcoc_ledger.labels import SYMBOLS
from arrcoc_reference.arms import Arm, GridNeck, grid_side, ranked, uniform_scores
from arrcoc_reference.prompt import Prompter
from arrcoc_training.assets import tokenizer
from arrcoc_training.data import IGNORED, MAX_TRANSCRIBED, Pages, Text, code
from arrcoc_training.losses import (
    Codebook, alignment_loss, consistency_loss, distribution_loss, relevance_loss, sparsity_loss, tier_targets,
)  # fmt: skip
from arrcoc_training.step import Choice
from arrcoc_training.validate import rebase_adapter

CONFIG = yaml.safe_load((train_script.Path(__file__).parents[2] / "configs/train/reference.yaml").read_text())


def small_config() -> dict:
    config = copy.deepcopy(CONFIG)
    for phase in config["phases"]:
        phase.update(steps=2, pages=1, turns=min(2, phase["turns"]), records=[2, 4])
    return config


def test_prompts_are_the_chat_templates(tmp_path):
    """One question as `Prompter` puts it, and two in one conversation as the template does."""
    run = train_script.Run(small_config(), tmp_path)
    run.write_checkpoint()
    prompter = Prompter(tmp_path / "checkpoint", run.learner.model.config["image_token_id"])
    text = Text(run.tok)
    page = draw_page(random.Random(0), PageSpec(records=4))
    first, second = (ask(random.Random(seed), page, Topic.RECORD) for seed in (0, 1))

    ids, labels, _ = text.after(0, [first])
    answered = next(i for i, label in enumerate(labels) if label != IGNORED) + 1
    expected = prompter.prompt_ids(first.query)[0].tolist()
    assert text.before + [prompter.image_token_id] + ids[:answered] == expected
    assert run.tok.decode([label for label in labels if label != IGNORED][:-1]) == first.answer

    talk = text.talk([[first, second]])
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": first.query}]},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": second.query},
    ]
    whole = prompter.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = text.ids(whole + second.answer + "<|im_end|>")
    assert talk.before.tolist() + [prompter.image_token_id] + talk.after[0].tolist() == expected
    for number, question in enumerate((first, second)):
        mine = (talk.question[0] == number) & (talk.labels[0] != IGNORED)
        assert talk.labels[0][mine].tolist() == text.ids(question.answer + "<|im_end|>")


def test_tokens_of_random_strings_are_single():
    tok = tokenizer()
    assert tok.encode("What is the value of QX?").tokens[-3:] == ["Q", "X", "?"]
    assert tok.encode("047").tokens == ["0", "4", "7"]
    for text in ("naïve ☂ Ünïcode", "Which number is in the red circle?"):
        assert tok.decode(tok.encode(text).ids) == text


def test_imagined_pages_can_be_asked_and_hold_the_answer():
    page = imagine(random.Random(0), PageSpec(records=5, links=2, table=True, chart=True, shapes=4))
    assert {item.kind for item in page.items} == set(Kind)
    for topic in (*ONE_PLACE, Topic.TWO_HOP):
        question = ask(random.Random(0), page, topic)
        kind, slots = code(question.evidence[-1])
        assert kind == question.evidence[-1].kind
        assert "".join(SYMBOLS[s] for s in slots[2:]) == question.answer


def test_codes_tell_items_apart():
    table = 0.5 * torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    book = Codebook(32, [[i % 40] for i in range(len(SYMBOLS))], 40)
    kind = torch.tensor([[1, 1, 0]])
    slots = torch.tensor([[[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [0, 0, 0, 0, 0]]])
    relevance = torch.zeros(1, 3)
    codes = book(kind, slots, relevance, table).detach()
    assert torch.allclose(codes.std(-1, correction=0), table.std().expand(1, 3), atol=1e-3)
    assert (codes[0, 0] - codes[0, 1]).abs().max() > 0.05
    # The same symbols in another place are another code.
    turned = book(kind, slots.flip(-1), relevance, table).detach()
    assert (codes - book(kind, slots, relevance + 1, table)).abs().max() > 0.05
    assert (codes[0, 0] - turned[0, 0]).abs().max() > 0.05
    assert alignment_loss(codes, codes, kind) == pytest.approx(0, abs=1e-6)
    # Of two that show something one is off by 2, and what shows nothing weighs a tenth.
    off = torch.cat([-codes[:, :1], codes[:, 1:]], dim=1)
    assert alignment_loss(off, codes, kind) == pytest.approx(2 / 2.1, rel=1e-4)


def test_pages_of_codes_fill_from_almost_nothing():
    config = small_config()
    phase = {"name": "codes", "steps": 100, "data": "codes", "pages": 8, "turns": 1, "records": [2, 32], "fill": "geometrically"}
    pages = Pages(config, phase, tokenizer(), 0)
    sizes = [(pages[step].kind > 0).sum(-1).max().item() for step in (0, 25, 49)]
    # Every item has one or two tokens.
    assert sizes[0] <= 2 * MAX_TRANSCRIBED and sizes[0] < sizes[1] < sizes[2]


def test_the_tier_of_any_budget(tmp_path):
    tier = train_script.Run(small_config(), tmp_path).learner.tier
    # 80 and 320 are the geometric means of two tiers.
    assert [tier(budget) for budget in (16, 64, 80, 81, 126, 127, 320, 321, 404)] == [0, 0, 0, 1, 1, 2, 3, 4, 4]


def test_a_conversation_gets_what_any_of_its_questions_needs(tmp_path):
    run = train_script.Run(small_config(), tmp_path)
    phase = CONFIG["phases"][2] | {"pages": 2, "talks": 2, "turns": 3, "records": [2, 4]}
    batch = Pages(CONFIG, phase, run.tok, 0)[0]
    assert (len(batch.page), len(batch.evidence), batch.turns) == (4, 12, 3)
    relevance = torch.rand(12, 400)
    blind = torch.rand(2, 400)
    features = torch.rand(2, 400, 8)
    inputs = run.learner.inputs
    _, given, tokens = inputs(Choice(Arm.QUERY_AWARE, 64), batch, features, relevance, blind, 0)
    assert tokens == 64 and torch.equal(given[1], relevance[3:6].max(0).values)
    _, given, _ = inputs(Choice(Arm.AGNOSTIC, 64), batch, features, relevance, blind, 0)
    assert torch.equal(given[2].argsort(), blind[batch.page[2]].argsort())
    _, given, tokens = inputs(Choice(Arm.FULL, 400), batch, features, relevance, blind, 0)
    assert tokens == 404 and (given == 0.5).all()


def test_losses_by_hand():
    evidence = torch.tensor([[True, False]])
    found = relevance_loss(torch.tensor([[0.5, 0.5]]), evidence)
    assert found == pytest.approx((6 + 1) * math.log(2) / 2)
    wide = torch.zeros(4, 400, dtype=torch.bool)
    for row, count in enumerate((4, 40, 41, 300)):
        wide[row, :count] = True
    # 4 gist cells and 1.5 times the evidence: 10, 64, 65.5, 454.
    assert tier_targets(wide, 4, [64, 100, 160, 256, 400]).tolist() == [0, 0, 1, 4]
    embeds = torch.tensor([1.0, 3.0]).repeat(2000)
    assert distribution_loss(embeds, torch.tensor(2.0), embeds.std()) == pytest.approx(0, abs=1e-6)
    assert distribution_loss(embeds, torch.tensor(1.0), embeds.std()) == pytest.approx(1, rel=1e-3)
    assert sparsity_loss(torch.randn(20_000), torch.tensor(1.0), 0.0) < 1e-4
    assert sparsity_loss(torch.zeros(100), torch.tensor(1.0), 0.0) > 0.5
    assert consistency_loss(torch.ones(1, 2, 3), torch.ones(1, 2, 3)) == pytest.approx(0, abs=1e-6)
    assert consistency_loss(torch.ones(1, 2, 3), -torch.ones(1, 2, 3)) == pytest.approx(2)


def test_arms():
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.1]])
    assert torch.allclose(ranked(scores), torch.tensor([[0.45 + 0.1 * 2 / 3, 0.45, 0.55, 0.45 + 0.1 / 3]]))
    ties = ranked(torch.tensor([[0.5, 0.5, 0.7, 0.5]]))
    assert ties.argsort(descending=True).tolist() == [[2, 0, 1, 3]], "of equals the first comes first"
    order = uniform_scores(400).argsort(descending=True)
    assert sorted(order.tolist()) == list(range(400))
    first = [divmod(int(p), 20) for p in order[:16]]
    gaps = [min(math.dist(a, b) for b in first if b != a) for a in first]
    assert min(gaps) > 4, "the first 16 are spread over the page"
    features = torch.randn(2, 400, 3)
    grid = GridNeck(3)(features, grid_side(100))
    means = features.view(2, 10, 2, 10, 2, 3).mean((2, 4)).flatten(1, 2)
    assert torch.allclose(grid, means, atol=1e-6), "untrained, it averages"


def test_rebasing_changes_numbers_but_not_the_function(tmp_path):
    model = train_script.Run(small_config(), tmp_path).learner.model
    tokens = torch.randn(2, 5, model.config["clip_config"]["hidden_size"])
    tier = torch.tensor([0, 3])
    before = model.quality_adapter(tokens, tier)
    model.llm.get_input_embeddings().weight.data.mul_(3).add_(0.01)
    rebase_adapter(model)
    table = model.llm.get_input_embeddings().weight
    assert model.config["adapter_config"]["target_std"] == pytest.approx(table.std().item())
    assert model.quality_adapter.scale[0].item() == pytest.approx(0.02 / table.std().item(), rel=1e-4)
    assert torch.allclose(model.quality_adapter(tokens, tier), before, atol=1e-6)


@pytest.mark.parametrize("phase", [0, 1, 4])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch, phase):
    monkeypatch.setattr(train_script, "validate", lambda *_: {})  # takes time and changes nothing

    class Killed(Exception):
        pass

    def weights(run):
        return {name: p.detach().clone() for name, p in run.learner.named_parameters()}

    whole = train_script.Run(small_config(), tmp_path / "whole")
    whole.run(checkpoint_every=1)

    killed = train_script.Run(small_config(), tmp_path / "killed")
    step, count = killed.loss, 0

    def dies(item, of):
        nonlocal count
        count += 1
        if count == 2 * phase + 2:  # after the phase's first step of two
            raise Killed
        return step(item, of)

    killed.loss = dies
    with pytest.raises(Killed):
        killed.run(checkpoint_every=1)
    resumed = train_script.Run(small_config(), tmp_path / "killed")
    resumed.resume()
    assert (resumed.phase, resumed.step) == (phase, 1)
    resumed.run(checkpoint_every=1)
    expected, found = weights(whole), weights(resumed)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_phases_freeze_what_they_do_not_train(tmp_path):
    config = small_config()
    run = train_script.Run(config, tmp_path)
    run.phase = 2  # allocator and adapter
    before = {name: p.detach().clone() for name, p in run.learner.named_parameters()}
    run.run_phase(checkpoint_every=100)
    moved = {name.split(".")[1] for name, p in run.learner.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= {"allocator", "compressor", "quality_adapter", "weight", "bias"}, moved  # the last two: the neck's
    assert {"allocator", "compressor", "quality_adapter"} <= moved


def test_a_resumed_run_may_change_what_has_not_begun(tmp_path):
    config = small_config()
    run = train_script.Run(config, tmp_path)
    run.phase, run.step = 1, 1
    run.save(None)
    later = copy.deepcopy(config)
    later["phases"][2]["steps"] = 99
    train_script.Run(later, tmp_path).resume()
    for change in (lambda c: c["phases"][1].update(lr=1.0), lambda c: c.update(seed=1)):
        other = copy.deepcopy(config)
        change(other)
        with pytest.raises(SystemExit, match="another configuration"):
            train_script.Run(other, tmp_path).resume()
