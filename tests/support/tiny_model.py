"""A random model of a few thousand parameters with a byte tokenizer: what training tests run on."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from xrouter_lg.prompts import slots


def write_tiny_base(folder: Path, *, layers: int = 3) -> Path:
    """A base model's folder: every byte is a token, and so is every slot."""
    alphabet = sorted(ByteLevel.alphabet())
    letters = slots.CARD_SLOTS + slots.ANCHOR_SLOT
    tokens = ["<pad>", "<eos>", *alphabet, *(f"Ġ{letter}" for letter in letters)]
    vocab = {token: index for index, token in enumerate(tokens)}
    raw = Tokenizer(BPE(vocab=vocab, merges=[("Ġ", letter) for letter in letters]))
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    folder.joinpath("xrouter_base.json").write_text(json.dumps({"model_id": "tiny"}))
    return folder
