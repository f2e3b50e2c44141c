"""config.json and tokenizer of the reference checkpoint: the composite at a size that trains on two cores."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from write_checkpoint import SPECIAL_TOKENS

from arrcoc_ledger import SIZE, vocabulary_sentences

VOCABULARY = 512
BUDGETS = [64, 100, 160, 256, 400]
# The native size last; the smaller ones are for thumbnails and for the baseline that shrinks the page.
IMAGE_SIZES = [64, 80, 128, 160, 192, 256, SIZE]


def tokenizer() -> Tokenizer:
    """Byte-level BPE over the words of the questions. Digits and capitals stay single tokens: random strings have no
    pieces worth learning. Any other text falls back to bytes."""
    tok = Tokenizer(models.BPE())
    single = pre_tokenizers.Split(Regex("[A-Z0-9]"), behavior="isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([single, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tok.train_from_iterator([*vocabulary_sentences(), "user", "assistant", "system"], trainer)
    tok.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tok


def config(tok: Tokenizer, sizes: dict) -> dict:
    """config.json; `sizes` are the widths and depths of configs/train/*.yaml."""
    ids = {token: tok.token_to_id(token) for token in SPECIAL_TOKENS}
    vision, clip, text = sizes["vision"], sizes["clip"], sizes["text"]
    return {
        "architectures": ["ArrCocOvisForConditionalGeneration"],
        "model_type": "arr_coc_ovis",
        "dtype": "float16",
        "image_token_id": ids["<|image_pad|>"],
        "token_budgets": BUDGETS,
        "image_sizes": IMAGE_SIZES,
        "vision_config": {
            "model_type": "sam_vision_model", "image_size": SIZE, "patch_size": 16, "num_channels": 3,
            "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True,
            **vision,
        },
        "allocator_config": sizes["allocator"],
        "compressor_config": sizes["compressor"],
        "clip_config": {
            "model_type": "clip_vision_model", "image_size": SIZE, "patch_size": 16, "num_channels": 3,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, **clip,
        },
        "adapter_config": {"target_mean": 0.0, "target_std": 0.02, "target_sparsity": 0.0, **sizes["adapter"]},
        "text_config": {
            "model_type": "qwen3", "vocab_size": tok.get_vocab_size(), "tie_word_embeddings": True,
            "max_position_embeddings": 4096, "rope_theta": 10000, "rope_scaling": None, "rms_norm_eps": 1e-6,
            "hidden_act": "silu", "attention_bias": False, "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"], "bos_token_id": None, **text,
        },
    }  # fmt: skip
