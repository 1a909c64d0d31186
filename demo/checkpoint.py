"""Writes and reads the checkpoint directory, in the on-disk format of Index-1.9B-Chat."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

HEAD = "lm_head.weight"
LONGEST_CONTEXT = 2048

SHAPE: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.01,
    "intermediate_size": 512,
    "max_position_embeddings": LONGEST_CONTEXT,
    "num_attention_heads": 6,
    "num_hidden_layers": 6,
    "num_key_value_heads": 6,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
}
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# The named files do not exist: the remote code of a checkpoint must never run.
AUTO_MAP = {
    "AutoConfig": "configuration_index.IndexConfig",
    "AutoModel": "modeling_index.IndexModel",
    "AutoModelForCausalLM": "modeling_index.IndexForCausalLM",
}
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "reserved_0", "reserved_1"]
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ '<unk>' + messages[0]['content'] }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'reserved_0' + message['content'] + 'reserved_1' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}{% endfor %}"
)


def new_body(vocabulary_size: int) -> LlamaForCausalLM:
    """A Llama model with new weights. It has no padding index, since row 0 is the system marker and must learn."""
    config = LlamaConfig(vocab_size=vocabulary_size, bos_token_id=1, eos_token_id=2, pad_token_id=None, **SHAPE)
    return LlamaForCausalLM(config)


def normalized_rows(weight: torch.Tensor) -> torch.Tensor:
    """The head [V, H] as the norm head uses it: each row has length 1."""
    return functional.normalize(weight, eps=1e-12)


def save_checkpoint(model: LlamaForCausalLM, directory: Path, seed: int) -> None:
    """Writes the weights in bfloat16 and the JSON files. `train_tokenizer` has written the tokenizer."""
    torch.save(file_tensors(model, seed), directory / "pytorch_model.bin")
    vocabulary_size = model.config.vocab_size
    write_json(directory / "config.json", config_json(vocabulary_size))
    write_json(directory / "generation_config.json", generation_json())
    write_json(directory / "special_tokens_map.json", special_tokens_json())
    write_json(directory / "tokenizer_config.json", tokenizer_json())


def file_tensors(model: LlamaForCausalLM, seed: int) -> "OrderedDict[str, torch.Tensor]":
    """The weights by Llama name, each a copy with its own storage, so that no larger storage is pickled with it.

    The norm head ignores the lengths of its rows. They are clearly unequal here, so that a loader that forgets to
    normalise them gives nonsense.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = OrderedDict((name, tensor.detach().clone()) for name, tensor in model.state_dict().items())
    exponents = torch.rand(tensors[HEAD].shape[0], 1, generator=generator) * 2 - 1  # [V, 1]
    tensors[HEAD] = normalized_rows(tensors[HEAD]) * exponents.exp()  # lengths from 0.37 to 2.7
    return OrderedDict((name, tensor.to(torch.bfloat16).clone()) for name, tensor in tensors.items())


def load_checkpoint(directory: Path) -> LlamaForCausalLM:
    """The model as a server runs it: the head is normalised in bfloat16, then all weights are widened to float32."""
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    tensors[HEAD] = normalized_rows(tensors[HEAD])
    model = new_body(tensors[HEAD].shape[0])
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.requires_grad_(False)
    return model


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_json(vocabulary_size: int) -> dict[str, Any]:
    """config.json with the keys of the original: norm_head is the integer 1, and there is no rope_theta."""
    values: dict[str, Any] = {
        "architectures": ["IndexForCausalLM"],
        "auto_map": AUTO_MAP,
        "max_length": LONGEST_CONTEXT,
        "model_type": "index",
        "norm_head": 1,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.2",
        "use_cache": True,
        "vocab_size": vocabulary_size,
    }
    return dict(sorted((values | SHAPE | SPECIAL_IDS).items()))


def generation_json() -> dict[str, Any]:
    """generation_config.json with the values that Index-1.9B-Chat publishes."""
    sampling = {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.3, "top_k": 5, "top_p": 0.8}
    return {"_from_model_config": True, **SPECIAL_IDS, **sampling, "transformers_version": "4.39.2"}


def special_token(content: str) -> dict[str, Any]:
    """The description of one special token in the tokenizer files."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def special_tokens_json() -> dict[str, Any]:
    """special_tokens_map.json; <unk> is also the padding token."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    return {name: special_token(content) for name, content in names.items()}


def tokenizer_json() -> dict[str, Any]:
    """tokenizer_config.json; it adds no BOS, no EOS and no space before the text."""
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): special_token(content) | {"special": True} for index, content in enumerate(SPECIAL_TOKENS)
        },
        "auto_map": {"AutoTokenizer": ["tokenization_index.IndexTokenizer", None]},
        "bos_token": "<s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "model_max_length": LONGEST_CONTEXT,
        "pad_token": "<unk>",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "IndexTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
