"""Training: the pieces do what they say, and a killed run goes on as if nothing had been."""

import copy
import math
import random

import pytest
import torch
import train as train_script
import yaml
from arrcoc_ledger import PageSpec, Topic, ask, draw_page
from arrcoc_reference.arms import GridNeck, grid_side, ranked, uniform_scores
from arrcoc_reference.prompt import Prompter
from arrcoc_training.assets import tokenizer
from arrcoc_training.data import IGNORED, Text, spelt_out
from arrcoc_training.losses import consistency_loss, distribution_loss, relevance_loss, sparsity_loss, tier_targets
from arrcoc_training.validate import rebase_adapter

CONFIG = yaml.safe_load((train_script.Path(__file__).parents[3] / "configs/train/reference.yaml").read_text())


def small_config() -> dict:
    config = copy.deepcopy(CONFIG)
    for phase in config["phases"]:
        phase.update(steps=2, pages=1, questions=min(2, phase["questions"]), records=[2, 4])
    return config


def test_prompts_are_the_chat_templates(tmp_path):
    run = train_script.Run(small_config(), tmp_path)
    run.write_checkpoint()
    prompter = Prompter(tmp_path / "checkpoint", run.learner.model.config["image_token_id"])
    text = Text(run.tok)
    page = draw_page(random.Random(0), PageSpec(records=4))
    question = ask(random.Random(0), page, Topic.RECORD)
    after, labels = text.after(question.query, question.answer)
    asked = labels.index(next(label for label in labels if label != IGNORED)) + 1
    expected = prompter.prompt_ids(question.query)[0].tolist()
    assert text.before + [prompter.image_token_id] + after[:asked] == expected
    assert run.tok.decode([label for label in labels if label != IGNORED][:-1]) == question.answer


def test_tokens_of_random_strings_are_single():
    tok = tokenizer()
    assert tok.encode("What is the value of QX?").tokens[-3:] == ["Q", "X", "?"]
    assert tok.encode("047").tokens == ["0", "4", "7"]
    for text in ("naïve ☂ Ünïcode", "Which number is in the red circle?"):
        assert tok.decode(tok.encode(text).ids) == text


def test_spelt_out_pages_hold_the_answer():
    page = draw_page(random.Random(0), PageSpec(records=3, shapes=2))
    question = ask(random.Random(0), page, Topic.RECORD)
    item = question.evidence[0]
    assert f"{''.join(item.key)} {item.value}" in spelt_out(random.Random(0), page).split("\n")


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


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path):
    class Killed(Exception):
        pass

    def weights(run):
        return {name: p.detach().clone() for name, p in run.learner.named_parameters()}

    whole = train_script.Run(small_config(), tmp_path / "whole")
    whole.run(checkpoint_every=1)

    killed = train_script.Run(small_config(), tmp_path / "killed")
    step, count = killed.loss, 0

    def dies(item, phase):
        nonlocal count
        count += 1
        if count == 8:  # in the fourth phase, after its first step
            raise Killed
        return step(item, phase)

    killed.loss = dies
    with pytest.raises(Killed):
        killed.run(checkpoint_every=1)
    resumed = train_script.Run(small_config(), tmp_path / "killed")
    resumed.resume()
    assert (resumed.phase, resumed.step) == (3, 1)
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
    assert moved <= {"allocator", "compressor", "quality_adapter", "weight", "bias"}, moved
    assert {"allocator", "compressor", "quality_adapter"} <= moved
