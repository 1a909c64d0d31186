"""Makes small random checkpoints of exactly the served format, and the reference model to compare with."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

TEXT = """\
你好，世界。今天天气很好，我们一起去看电影吧。他说：“我是一名学生，我喜欢学习中文和数学。”
请问你叫什么名字？我叫小明，很高兴认识你！你能用一句话介绍一下自己吗？当然可以。
人工智能是计算机科学的一个分支，它研究如何让机器像人一样思考和学习。
Hello world! What is your name? My name is Index, and I am a language model.
The quick brown fox jumps over the lazy dog, again and again, until the day is over.
She said that they were reading the same book: 1, 2, 3, 4, 5, 6, 7, 8, 9 and 0 are the numbers.
"""

SMALL: dict[str, int] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 4,
    "context_length": 512,
}
"""The default shape of `make_checkpoint`."""


CONFIG: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

AUTO_MAP = {"AutoModelForCausalLM": "modeling_absent.IndexForCausalLM"}
"""Names code that does not exist, so that any use of it fails."""


@functools.cache
def make_tokenizer(
    *,
    user_defined_markers: bool = False,
    byte_fallback: bool = True,
    dummy_prefix: bool = False,
    normalization: str = "identity",
    markers: tuple[str, str] = ("reserved_0", "reserved_1"),
) -> bytes:
    """The content of a `tokenizer.model` with about 500 pieces, trained once for each process."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=500 if byte_fallback else 260,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name=normalization,
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=normalization != "identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
        user_defined_symbols=list(markers) if user_defined_markers else [],
        control_symbols=[] if user_defined_markers else list(markers),
    )
    return model.getvalue()


def make_checkpoint(
    directory: Path,
    *,
    hidden_size: int = SMALL["hidden_size"],
    intermediate_size: int = SMALL["intermediate_size"],
    num_layers: int = SMALL["num_layers"],
    num_heads: int = SMALL["num_heads"],
    num_kv_heads: int = SMALL["num_kv_heads"],
    context_length: int = SMALL["context_length"],
    norm_head: int | bool | None = 1,
    form: str = "bin",
    rope_ratio: float | None = None,
    extra_inv_freq: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    model_type: str = "index",
    tie_word_embeddings: bool = False,
    user_defined_markers: bool = False,
    byte_fallback: bool = True,
    dummy_prefix: bool = False,
) -> Path:
    """Writes a complete checkpoint and returns its directory.

    `form` is bin, sharded_bin, safetensors or sharded_safetensors. If `norm_head` or `rope_ratio` is
    None, the config does not have it, as that of a Llama.
    """
    tokenizer = make_tokenizer(
        user_defined_markers=user_defined_markers, byte_fallback=byte_fallback, dummy_prefix=dummy_prefix
    )
    config = CONFIG | {
        "model_type": model_type,
        "architectures": ["IndexForCausalLM" if model_type == "index" else "LlamaForCausalLM"],
        "vocab_size": sentencepiece.SentencePieceProcessor(model_proto=tokenizer).get_piece_size(),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": context_length,
        "max_length": context_length,
        "tie_word_embeddings": tie_word_embeddings,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if model_type == "index":
        special = {"norm_head": norm_head, "rope_ratio": rope_ratio, "auto_map": AUTO_MAP}
        config |= {key: value for key, value in special.items() if value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "tokenizer.model").write_bytes(tokenizer)
    _write_companions(directory)
    tensors = random_tensors(config, seed, dtype)
    if extra_inv_freq:
        tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(num_layers)}
    write_weights(directory, tensors, form)
    return directory


def random_tensors(config: dict[str, Any], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by name.

    The rows of the head have lengths from 0.2 to 5: if the norm head were not folded in, the argmax would change.
    """
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator).div(columns**0.5)

    def norm() -> Tensor:
        return 1 + 0.1 * torch.randn(hidden, generator=generator)

    hidden, mlp, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden) * hidden**0.5}
    for index in range(config["num_hidden_layers"]):
        tensors |= {
            f"model.layers.{index}.{name}.weight": value
            for name, value in {
                "input_layernorm": norm(),
                "self_attn.q_proj": matrix(hidden, hidden),
                "self_attn.k_proj": matrix(keys, hidden),
                "self_attn.v_proj": matrix(keys, hidden),
                "self_attn.o_proj": matrix(hidden, hidden),
                "post_attention_layernorm": norm(),
                "mlp.gate_proj": matrix(mlp, hidden),
                "mlp.up_proj": matrix(mlp, hidden),
                "mlp.down_proj": matrix(hidden, mlp),
            }.items()
        }
    tensors["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        lengths = torch.rand(vocabulary, 1, generator=generator) * 4.8 + 0.2
        tensors["lm_head.weight"] = matrix(vocabulary, hidden) * lengths
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def write_weights(directory: Path, tensors: dict[str, Tensor], form: str) -> None:
    """Writes weights in one file, or in two shards with an index."""
    stem, suffix = ("pytorch_model", "bin") if form.endswith("bin") else ("model", "safetensors")
    if not form.startswith("sharded_"):
        _write_file(directory / f"{stem}.{suffix}", tensors)
        return
    names = list(tensors)
    shards = {f"{stem}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, members in shards.items():
        _write_file(directory / file, {name: tensors[name] for name in members})
    weight_map = {name: file for file, members in shards.items() for name in members}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def reference_model(directory: Path) -> LlamaForCausalLM:
    """The same model in transformers, in float32, to compare with; its head is folded in the file's number format."""
    values = json.loads((directory / "config.json").read_text())
    ratio, norm_head = values.pop("rope_ratio", 1.0), values.pop("norm_head", 0)
    for key in ("model_type", "architectures", "auto_map", "torch_dtype", "max_length", "rope_scaling"):
        values.pop(key, None)
    rope = {"rope_type": "default", "rope_theta": 10000.0 * ratio}
    model: Any = LlamaForCausalLM(LlamaConfig(**values, rope_parameters=rope))
    tensors = read_weights(directory)
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    tensors["lm_head.weight"] = functional.normalize(head) if norm_head else head
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items() if "inv_freq" not in name})
    reference: LlamaForCausalLM = model.requires_grad_(False).eval()
    return reference


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint that `make_checkpoint` wrote."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.bin")):
        tensors |= torch.load(path, weights_only=True)
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def _write_companions(directory: Path) -> None:
    """Writes the small files of the real repository that the service does not read."""
    companions: dict[str, dict[str, Any]] = {
        "generation_config.json": {"top_k": 5, "top_p": 0.8, "temperature": 0.3, "repetition_penalty": 1.1},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "legacy": False,
            "spaces_between_special_tokens": False,
            "auto_map": {"AutoTokenizer": ["tokenization_absent.IndexTokenizer", None]},
        },
    }
    for name, content in companions.items():
        (directory / name).write_text(json.dumps(content, indent=2))
