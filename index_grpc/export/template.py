"""The prompt layout as a chat template: what a checkpoint says, or the model's own."""

import json
from pathlib import Path

from index_grpc.errors import CheckpointError

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<unk>' + message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ 'reserved_0' + message['content'] }}"
    "{% else %}{{ 'reserved_1' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if messages[-1]['role'] != 'assistant' %}{{ 'reserved_1' }}{% endif %}"
)
"""Lays out what `text/layout.py` does. Unlike there, a user's text can forge a turn by writing the mark of one."""


def chat_template(source: Path) -> str:
    """The checkpoint's own template, or TEMPLATE if it has none. Raises CheckpointError for a broken file."""
    path = source / "tokenizer_config.json"
    if not path.exists():
        return TEMPLATE
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from error
    return template if isinstance(template, str) else TEMPLATE
