"""A checkpoint as a GGUF file that llama.cpp serves: the whole model merged, or the adapter alone.

    python -m integrations.llama_cpp.export_gguf CHECKPOINT OUT.gguf --base FOLDER [--type q8_0]
    python -m integrations.llama_cpp.export_gguf CHECKPOINT OUT.gguf --base FOLDER --adapter

``--type`` is f32 (the same numbers as training's), f16, bf16 or q8_0. ``--adapter`` writes the LoRA
matrices only; llama.cpp then loads a GGUF file of the base beside them, and several adapters share
one base. Needs the extras torch and llama-cpp.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np
import numpy.typing as npt

from integrations.command import status_of
from integrations.errors import ExportError
from xrouter_lg.checkpoints.bases import find_base
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.files import whole
from xrouter_lg.policies.slots.torch_engine import load_model

WeightType = Literal["f32", "f16", "bf16", "q8_0"]

_ARCHITECTURES: Mapping[str, gguf.MODEL_ARCH] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""By transformers' ``model_type``."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GgufShape:
    """What the file's head says of a model, out of transformers' ``config.json``."""

    arch: gguf.MODEL_ARCH
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_theta: float
    norm_epsilon: float

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> GgufShape:
        """
        Raises:
            ExportError: an architecture or a position embedding that this exporter does not know.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in _ARCHITECTURES:
            raise ExportError(
                f"{where} is a {kind!r}; this exporter knows {', '.join(_ARCHITECTURES)}. Export "
                "the checkpoint merged and use llama.cpp's own convert_hf_to_gguf.py"
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        scaling = rope.get("rope_type", rope.get("type", "default"))
        if scaling != "default":
            raise ExportError(
                f"{where} scales its positions by {scaling!r}, which this exporter does not write; "
                "export the checkpoint merged and use llama.cpp's own convert_hf_to_gguf.py"
            )
        heads = int(config["num_attention_heads"])
        return cls(
            arch=_ARCHITECTURES[kind],
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            feed_forward=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            norm_epsilon=float(config["rms_norm_eps"]),
        )

    def rotated_by_pairs(self, rows: Array, name: str) -> Array:
        """Rows of a query or key projection in llama.cpp's order.

        Its Llama rotates neighbours (0, 1), (2, 3) ...; transformers rotates halves (0, d/2), ...
        """
        if self.arch != gguf.MODEL_ARCH.LLAMA or not name.endswith(("attn_q", "attn_k")):
            return rows
        heads = self.heads if name.endswith("attn_q") else self.kv_heads
        split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def export_merged(
    checkpoint: Path, out: Path, *, base: str | Path | None = None, type: WeightType = "f32"
) -> Path:
    """Write a checkpoint's whole model, its adapter merged in float32; ``out``.

    Raises:
        CheckpointError: the checkpoint is damaged, or its base is missing or another one.
        ExportError: an architecture or tokenizer that this exporter does not know.
    """
    manifest = verify(checkpoint)
    folder = find_base(manifest, checkpoint, base)
    config = json.loads((folder or checkpoint).joinpath("config.json").read_text())
    shape = GgufShape.of(config, f"the model of {str(checkpoint)!r}")
    names = gguf.get_tensor_name_map(shape.arch, shape.layers)
    weights = _merged_weights(manifest, checkpoint, folder)
    tied = bool(config.get("tie_word_embeddings"))
    wanted = gguf.GGMLQuantizationType[type.upper()]
    file_type = gguf.LlamaFileType[f"{'ALL' if type == 'f32' else 'MOSTLY'}_{wanted.name}"]

    def write(writer: gguf.GGUFWriter) -> None:
        _add_shape(writer, shape, manifest)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_tokenizer(writer, checkpoint, shape)
        for name, array in weights:
            if tied and name == "lm_head.weight":
                continue
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise ExportError(f"no place in a GGUF file for the tensor {name!r}")
            rows = shape.rotated_by_pairs(array, target.rpartition(".")[0])
            kind = wanted if rows.ndim > 1 else gguf.GGMLQuantizationType.F32
            if kind is gguf.GGMLQuantizationType.Q8_0 and rows.shape[-1] % 32:
                kind = gguf.GGMLQuantizationType.F16
            writer.add_tensor(target, gguf.quants.quantize(rows, kind), raw_dtype=kind)

    return _written(out, shape.arch, write)


def export_adapter(checkpoint: Path, out: Path, *, base: str | Path | None = None) -> Path:
    """Write a checkpoint's LoRA matrices in float32; ``out``.

    Raises:
        CheckpointError: the checkpoint is damaged or no adapter, or its base is missing.
        ExportError: a kind of adapter that llama.cpp does not compute.
    """
    from safetensors.numpy import load_file

    manifest = verify(checkpoint)
    folder = find_base(manifest, checkpoint, base)
    if folder is None:
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} is merged and has no adapter; export it whole"
        )
    config = json.loads(folder.joinpath("config.json").read_text())
    shape = GgufShape.of(config, f"the base {str(folder)!r}")
    lora = json.loads(checkpoint.joinpath("adapter_config.json").read_text())
    _check_lora(lora, checkpoint)
    names = gguf.get_tensor_name_map(shape.arch, shape.layers)
    tensors = load_file(checkpoint / "adapter_model.safetensors")

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(f"xrouter-{manifest.version}")
        writer.add_version(manifest.version)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        alpha = float(lora["lora_alpha"])
        if lora.get("use_rslora"):
            # llama.cpp divides by the rank, this kind by its root.
            alpha *= math.sqrt(float(lora["r"]))
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, array in sorted(tensors.items()):
            module, half = _lora_name(name)
            target = names.get_name(module)
            if target is None:
                raise ExportError(f"no place in a GGUF file for the adapter's {name!r}")
            rows = array.astype(np.float32)
            if half == "b":
                rows = shape.rotated_by_pairs(rows, target)
            writer.add_tensor(f"{target}.weight.lora_{half}", rows)

    return _written(out, shape.arch, write)


def _merged_weights(
    manifest: Manifest, checkpoint: Path, folder: Path | None
) -> Iterator[tuple[str, Array]]:
    """Names as transformers has them, and float32 arrays."""
    model = load_model(manifest, checkpoint, folder, "float32", "a GGUF file")
    for name, tensor in model.state_dict().items():
        yield name, tensor.numpy()


def _add_shape(writer: gguf.GGUFWriter, shape: GgufShape, manifest: Manifest) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"xrouter-{manifest.version}")
    writer.add_version(manifest.version)
    writer.add_basename(manifest.model.base.model_id)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, shape: GgufShape) -> None:
    """The vocabulary. Prompts are sent as token ids, so llama.cpp's own tokenizer is not asked;
    it still needs one to show what it generates."""
    data = json.loads(folder.joinpath("tokenizer.json").read_text(encoding="utf-8"))
    model = data["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise ExportError(
            f"the tokenizer of {str(folder)!r} is {model.get('type')!r} and not byte-level BPE, "
            "which is all this exporter knows; use llama.cpp's own convert_hf_to_gguf.py"
        )
    by_id = {int(index): token for token, index in model["vocab"].items()}
    kinds = dict.fromkeys(by_id, gguf.TokenType.NORMAL)
    for added in data.get("added_tokens", ()):
        by_id[int(added["id"])] = added["content"]
        special = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        kinds[int(added["id"])] = special
    ids = range(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(data))
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in ids])
    writer.add_token_types([kinds.get(i, gguf.TokenType.UNUSED) for i in ids])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_add_bos_token(False)
    index = {token: i for i, token in by_id.items()}
    settings = json.loads(folder.joinpath("tokenizer_config.json").read_text(encoding="utf-8"))
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("unk_token", writer.add_unk_token_id),
    ):
        token = settings.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if text in index:
            add(index[text])


def _pre_tokenizer(data: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a text is split before the merges."""
    steps = data.get("pre_tokenizer") or {}
    parts: Sequence[Mapping[str, Any]] = steps.get("pretokenizers", [steps])
    kinds = [part.get("type") for part in parts]
    patterns = [str(part.get("pattern", {}).get("Regex", "")) for part in parts]
    if kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds[:1] == ["Split"]:
        return "llama-bpe" if r"\p{N}{1,3}" in patterns[0] else "qwen2"
    return "default"


def _check_lora(lora: Mapping[str, Any], checkpoint: Path) -> None:
    for key in ("use_dora", "alpha_pattern", "modules_to_save", "lora_bias"):
        if lora.get(key):
            raise ExportError(
                f"adapter {str(checkpoint)!r} uses {key}, which llama.cpp does not compute; export "
                "it merged"
            )
    if lora.get("use_rslora") and lora.get("rank_pattern"):
        raise ExportError(
            f"adapter {str(checkpoint)!r} has ranks of its own per layer; export it merged"
        )


def _lora_name(name: str) -> tuple[str, str]:
    """Module and half (``a`` or ``b``) of a tensor of PEFT's."""
    module = name.removeprefix("base_model.model.")
    for ending, half in ((".lora_A.weight", "a"), (".lora_B.weight", "b")):
        if module.endswith(ending):
            return module.removesuffix(ending), half
    raise ExportError(f"the adapter's tensor {name!r} is no LoRA matrix; export it merged")


def _written(out: Path, arch: gguf.MODEL_ARCH, write: Any) -> Path:
    """Write a file of which whoever sees ``out`` sees all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[arch])
        write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 when the file can't be written."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.llama_cpp.export_gguf",
        description="Write a checkpoint as a GGUF file.",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", help="the adapter's base model; default XROUTER_BASE")
    parser.add_argument("--type", choices=get_args(WeightType), default="f32")
    parser.add_argument("--adapter", action="store_true", help="the LoRA matrices alone")
    options = parser.parse_args(arguments)
    return status_of(lambda: _export(options))


def _export(options: argparse.Namespace) -> None:
    if options.adapter:
        export_adapter(options.checkpoint, options.out, base=options.base)
    else:
        export_merged(options.checkpoint, options.out, base=options.base, type=options.type)
    print(f"{options.out}\t{options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    raise SystemExit(main())
