"""The command `index-grpc export`, which writes a checkpoint for other engines."""

from pathlib import Path

import click

from index_grpc.errors import StartupError

FORMATS = ("llama", "gguf")
TYPES = ("f32", "f16", "bf16", "q8_0")


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    required=True,
    help="A plain Llama's directory, or GGUF, which needs the extra index-grpc[gguf].",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write to."
)
@click.option("--type", "dtype", type=click.Choice(TYPES), help="Numbers of a GGUF file; default: the checkpoint's.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
def export(model: str, kind: str, output: Path, dtype: str | None, revision: str | None) -> None:
    """Write MODEL for other engines and print the path of what was written.

    MODEL is what `serve` takes: demo, a checkpoint's directory or a hub id. The norm head is folded into the weights,
    the tokenizer is converted and the prompt layout included, so that transformers, vLLM and llama.cpp run the model
    without code made for it.

    \b
    Example:
      index-grpc export demo --format gguf --output exported
    """
    if dtype is not None and kind != "gguf":
        raise click.UsageError(f"--type {dtype} is for --format gguf; a plain Llama keeps the checkpoint's numbers")
    if output.exists() and any(output.iterdir()):
        raise click.UsageError(f"--output {output} is not empty; name a new directory")
    from index_grpc.export.write import write  # slow to import

    try:
        click.echo(write(model, revision, kind, dtype, output))
    except StartupError as error:
        raise click.ClickException(str(error)) from error
