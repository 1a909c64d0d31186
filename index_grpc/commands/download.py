"""The command `index-grpc download`."""

from pathlib import Path

import click

from index_grpc.errors import StartupError
from index_grpc.settings.computing import DEFAULT_REPOSITORY


@click.command()
@click.argument("model", default=DEFAULT_REPOSITORY)
@click.option("--revision", help="Branch, tag or commit; default: the main branch.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Directory to put it in.")
def download(model: str, revision: str | None, output: Path | None) -> None:
    """Fetch MODEL from the hub, check it and print its directory.

    MODEL is a hub id; the default is IndexTeam/Index-1.9B-Chat. An interrupted download continues where it stopped. The
    environment variable HF_ENDPOINT names a mirror.
    """
    from index_grpc.loading.checkpoint import download as fetch  # slow to import

    try:
        click.echo(fetch(model, revision, output))
    except StartupError as error:
        raise click.ClickException(str(error)) from error
