"""Starting values. transformers' own are for fine-tuning: SAM's are all but zero."""

import torch

from arrcoc_reference import ArrCocOvis


@torch.no_grad()
def initialise(model: ArrCocOvis, seed: int) -> None:
    """Matrices with a standard deviation of 1/sqrt(inputs), those that end a residual branch less; norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    layers = len(model.sam.vision_encoder.layers)
    for name, parameter in model.named_parameters():
        leaf, module = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2]
        noise = torch.randn(parameter.shape, generator=generator)
        if leaf == "threshold":
            continue
        if module in ("q_norm", "k_norm"):
            # At 1 products are at most the root of the heads' width, too little to pick one of a hundred
            # tokens.
            parameter.fill_(1.5)
            continue
        if leaf in ("scale", "prior_sharpness") or ("norm" in module and leaf == "weight") or leaf == "match_gain":
            parameter.fill_(1.0)
        elif leaf in ("bias", "shift") or leaf.endswith("_gain"):
            parameter.zero_()
        elif leaf in ("pos_embed", "class_embedding") or "rel_pos" in leaf or module == "embed_tokens":
            parameter.copy_(0.02 * noise)
        elif "embed" in module:  # relevance, kind and place, added to tokens of size 1
            parameter.copy_(0.3 * noise)
        else:
            stacked = parameter.dim() == 3 and not name.endswith("context.weight")
            fan_in = parameter.shape[-1] if stacked else parameter[0].numel()
            ends_branch = module in ("proj", "lin2", "out_proj", "o_proj", "down_proj")
            parameter.copy_(noise / fan_in**0.5 / ((2 * layers) ** 0.5 if ends_branch else 1))
