"""A random Qwen2 of a few thousand parameters with Qwen2.5's own chat template, tools included."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import trl
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed

TEMPLATE = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"


def write_tiny_chat_base(
    folder: Path, texts: Iterable[str], phrases: Iterable[str] = (), *, layers: int = 2
) -> Path:
    """A base model's folder. The vocabulary is learned from ``texts``: prompts with tools are long,
    and a byte a token would make them thousands of tokens. ``phrases`` are tokens of their own, so
    that a model this small can learn to say them in a few steps."""
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.decoder = ByteLevelDecoder()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=sorted(ByteLevel.alphabet())
    )
    raw.train_from_iterator([*texts, TEMPLATE.read_text()], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    # Of Qwen2.5's special tokens these two are none: they survive skip_special_tokens.
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", *phrases])
    tokenizer.chat_template = TEMPLATE.read_text()
    set_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    folder.joinpath("xrouter_base.json").write_text(json.dumps({"model_id": "tiny-chat"}))
    return folder
