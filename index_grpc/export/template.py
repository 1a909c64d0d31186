"""The prompt layout as a chat template: the checkpoint's own, or the layout of Index."""

from pathlib import Path

from index_grpc.model.json_file import read_object

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<unk>' + message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ 'reserved_0' + message['content'] }}"
    "{% else %}{{ 'reserved_1' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if messages[-1]['role'] != 'assistant' %}{{ 'reserved_1' }}{% endif %}"
)
"""Has the same layout as `text/layout.py`. Unlike there, a user's text can forge a turn by containing its mark."""


def chat_template(source: Path) -> str:
    """Returns the checkpoint's own template, or TEMPLATE if it has none. Raises CheckpointError for a broken file."""
    path = source / "tokenizer_config.json"
    template = read_object(path).get("chat_template") if path.exists() else None
    return template if isinstance(template, str) else TEMPLATE
