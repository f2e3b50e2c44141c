"""transformers' own Qwen3-VL, a few million parameters of it: its configuration and its starting values."""

import json
import math
from pathlib import Path

import torch
from stock.qwen.checkpoint import Qwen3VLProcessor
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

LEDGER = Path(__file__).parents[1] / "checkpoints" / "arr-coc-ledger"
# Pages are white with dark ink: paper becomes about 0 and ink about -3.
IMAGE_MEAN, IMAGE_STD = [0.9] * 3, [0.3] * 3
IMAGE, END, PAD = "<|image_pad|>", "<|im_end|>", "<|endoftext|>"
# Where each head of the tower's first layers looks at the start: rows down, columns to the right, in patches.
OFFSETS = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((0, 2), (0, -2), (1, 0), (-1, 0)),
    ((0, 3), (0, -3), (1, 1), (-1, -1)),
    ((0, 5), (0, -5), (0, 2), (0, -2)),
)


def tokenizer() -> Tokenizer:
    """That of the shipped composite: 512 tokens, one for each digit and capital."""
    return Tokenizer.from_file(str(LEDGER / "tokenizer.json"))


def configuration(tok: Tokenizer, sizes: dict) -> Qwen3VLConfig:
    """`sizes`: `vision` and `text` of the training's configuration."""
    vision, text = sizes["vision"], sizes["text"]
    ids = {name: tok.token_to_id(token) for name, token in (("eos", END), ("pad", PAD))}
    return Qwen3VLConfig(
        image_token_id=tok.token_to_id(IMAGE),
        # The vocabulary has no token for videos: this id is beyond it.
        video_token_id=tok.get_vocab_size(),
        vision_start_token_id=tok.token_to_id("<|vision_start|>"),
        vision_end_token_id=tok.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
        vision_config={
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "out_hidden_size": text["hidden_size"],
            **{key: value for key, value in vision.items() if key != "rope_theta"},
            "rope_parameters": {"rope_type": "axial", "rope_theta": float(vision["rope_theta"])},
        },
        text_config={
            "vocab_size": tok.get_vocab_size(),
            "hidden_act": "silu",
            "attention_bias": False,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["pad"],
            **{key: value for key, value in text.items() if key not in ("rope_theta", "mrope_section")},
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": float(text["rope_theta"]),
                "mrope_section": text["mrope_section"],
                "mrope_interleaved": True,
            },
        },
    )


def build(tok: Tokenizer, sizes: dict, seed: int) -> Qwen3VLForConditionalGeneration:
    model = Qwen3VLForConditionalGeneration(configuration(tok, sizes)).float()
    initialise(model, seed)
    return model


@torch.no_grad()
def initialise(model: Qwen3VLForConditionalGeneration, seed: int) -> None:
    """Matrices with a standard deviation of 1/sqrt(inputs), those that end a residual branch less; norms 1,
    biases 0. Heads of the tower begin as looks at one neighbour each, since reading is local."""
    generator = torch.Generator().manual_seed(seed)
    layers = model.config.text_config.num_hidden_layers
    for name, parameter in model.named_parameters():
        leaf, module = name.rsplit(".", 2)[-1], name.rsplit(".", 2)[-2]
        if module in ("q_norm", "k_norm"):
            # At 1 products are at most the root of the heads' width, too little to pick one of many rows.
            parameter.fill_(1.5)
        elif "norm" in module and leaf == "weight":
            parameter.fill_(1.0)
        elif leaf == "bias" or module == "pos_embed":
            parameter.zero_()
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * deviation(module, name, parameter, layers))
    rotary = model.model.visual.rotary_pos_emb
    for layer, (block, offsets) in enumerate(zip(model.model.visual.blocks, OFFSETS, strict=False)):
        look(block.attn, rotary.inv_freq, offsets, 4.5 if layer < 2 else 3.0)


def deviation(module: str, name: str, parameter: Tensor, layers: int) -> float:
    fan_in = parameter[0].numel()
    if module == "embed_tokens":
        return 0.1
    if "merger" in name and module == "linear_fc2":
        # Rows of the size of the decoder's own embeddings.
        return 0.1 / math.sqrt(fan_in)
    if module in ("o_proj", "down_proj", "proj", "linear_fc2") and "patch_embed" not in name:
        return 1 / math.sqrt(2 * layers * fan_in)
    return 1 / math.sqrt(fan_in)


def look(attention: nn.Module, frequencies: Tensor, offsets: tuple, strength: float) -> None:
    """Biases at which each head's attention peaks at one place: axial rotation turns the distance between two
    patches into angles, and a query that is turned by the angles of an offset meets the key there."""
    heads, width = attention.num_heads, attention.head_dim
    half = width // 2
    bias = attention.qkv.bias.view(3, heads, width)
    for head in range(heads):
        down, right = offsets[head % len(offsets)]
        angles = torch.cat([down * frequencies, right * frequencies])
        bias[0, head, :half], bias[0, head, half:] = strength * angles.cos(), strength * angles.sin()
        bias[1, head, :half] = strength


def save(model: Qwen3VLForConditionalGeneration, directory: Path, side: int) -> None:
    """The checkpoint as transformers saves it, in fp16; pictures of up to side x side pixels are seen 1:1."""
    directory.mkdir(parents=True, exist_ok=True)
    tok = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), eos_token=END, pad_token=PAD, model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    vision = model.config.vision_config
    sizes = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    least = (vision.patch_size * vision.spatial_merge_size) ** 2
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": least, "longest_edge": side**2},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        **sizes,
    )
    template = (LEDGER / "chat_template.jinja").read_text()
    Qwen3VLProcessor(image_processor=images, tokenizer=tok, chat_template=template).save_pretrained(directory)
    # The section that transformers writes where torchvision is installed.
    file = directory / "processor_config.json"
    videos = Qwen3VLVideoProcessor(**sizes).to_dict()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"video_processor": videos}, indent=2) + "\n")
    halves = Qwen3VLForConditionalGeneration(model.config).half()
    halves.load_state_dict(model.state_dict())
    halves.generation_config.update(
        eos_token_id=[tok.eos_token_id, tok.pad_token_id], pad_token_id=tok.pad_token_id, bos_token_id=None
    )
    halves.save_pretrained(directory)
