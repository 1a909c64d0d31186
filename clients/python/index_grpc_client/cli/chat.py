"""The command `index-client chat`: a conversation at the terminal."""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Unpack

import click

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.cli.answering import DEFAULTS, answer_options
from index_grpc_client.cli.ask import write
from index_grpc_client.cli.connection import Connection
from index_grpc_client.cli.failure import Call, complain, exit_code, report
from index_grpc_client.cli.interrupt import interruptible
from index_grpc_client.cli.output import Command, require_output
from index_grpc_client.cli.reading import is_terminal, not_utf8, read_line
from index_grpc_client.conversation import AsyncConversation
from index_grpc_client.errors import IndexGrpcError
from index_grpc_client.options import AnswerOptions
from index_grpc_client.request import chat_request

HELP = """\
/new          forget the conversation
/system TEXT  set the instructions for the model; without TEXT, remove them
/retry        answer the last prompt again
/help         show this text
//TEXT        ask /TEXT, a prompt that begins with /
/quit         end the conversation; Ctrl-D does the same
Ctrl-C stops an answer; a stopped answer is forgotten with its prompt."""


class Dialogue:
    """Reads prompts and commands, and writes answers, until the input ends or says `/quit`."""

    def __init__(
        self,
        runner: asyncio.Runner,
        conversation: AsyncConversation,
        call: Call,
        options: AnswerOptions,
        interactive: bool = True,
    ) -> None:
        """If `interactive` is false, Ctrl-C raises KeyboardInterrupt instead of stopping only an answer or a line."""
        self._runner = runner
        self._conversation = conversation
        self._call = call
        self._options = options
        self._prompt: str | None = None
        self._answered = False
        self._exit_code = 0
        self._interactive = interactive

    def run(self, read: Callable[[], str]) -> int:
        """Answers lines until `read` raises EOFError or returns `/quit`. Returns the exit code of the last failed line.

        The exit code is 0 if no line failed. If `read` raises KeyboardInterrupt at a terminal, the line is dropped.
        """
        while True:
            try:
                line = read().strip()
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                continue
            except EOFError:
                return self._exit_code
            except UnicodeDecodeError as error:
                self._refuse(not_utf8(error))
                continue
            if line.startswith("//"):
                self._answer(line[1:], self._options)
            elif line.startswith("/"):
                name, *text = line.split(maxsplit=1)
                if name == "/quit":
                    return self._exit_code
                self._command(name, "".join(text))
            elif line:
                self._answer(line, self._options)

    def _command(self, name: str, text: str) -> None:
        match name:
            case "/new":
                self._conversation.clear()
                self._prompt = None
            case "/system":
                self._conversation.system = text or None
            case "/retry":
                self._retry()
            case "/help":
                click.echo(HELP, err=True)
            case _:
                self._refuse(f"there is no command {name}")
                complain("hint", f"/help lists them; to ask about {name}, begin the line with //")

    def _retry(self) -> None:
        if self._prompt is None:
            self._refuse("there is no prompt to answer again")
            return
        before, answered = self._conversation.history, self._answered
        if answered:
            self._conversation.undo()
        self._answer(self._prompt, {**self._options, "seed": None})  # the same seed would give the same answer
        if not self._answered:
            self._conversation.history, self._answered = before, answered

    def _answer(self, prompt: str, options: AnswerOptions) -> None:
        self._prompt, self._answered = prompt, False
        try:
            chat_request(prompt, system=self._conversation.system, **options)
        except ValueError as error:  # the prompt or an option cannot be sent
            self._refuse(str(error))
            return
        try:
            self._runner.run(interruptible(write)(self._conversation.stream(prompt, **options)))
            self._answered = True
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        except IndexGrpcError as error:
            report(error, self._call)
            self._exit_code = exit_code(error)
        finally:
            if self._interactive:
                signal.signal(signal.SIGINT, signal.default_int_handler)  # from now on Ctrl-C does not end the process

    def _refuse(self, why: str) -> None:
        complain("error", why)
        self._exit_code = click.UsageError.exit_code


def reader() -> Callable[[], str]:
    """Returns a function that reads a line. At a terminal lines can be edited and recalled."""
    if not is_terminal():
        return read_line
    # Its import takes as long as all the others together, and only a terminal needs it.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.plain_text import PlainTextOutput
    from prompt_toolkit.utils import is_dumb_terminal

    # If stdout is a file or pipe, it gets only the answers, and the terminal shows the prompts.
    stream = sys.stdout if sys.stdout.isatty() else sys.stderr
    output = PlainTextOutput(stream) if is_dumb_terminal() else create_output(stream)
    with create_app_session(output=output):  # a PromptSession that is given its output takes no terminal for dumb
        session: PromptSession[str] = PromptSession("> ")
    return session.prompt


@click.command(cls=Command, epilog=DEFAULTS)
@click.option("--system", help="Instructions for the model.")
@answer_options
@click.pass_obj
def chat(connection: Connection, system: str | None, **options: Unpack[AnswerOptions]) -> None:
    """Hold a conversation. /help lists the commands of the conversation.

    Lines from a pipe are answered one after another, also after a line that failed. The exit code is then that of the
    last failed line.
    """
    require_output()
    interactive = is_terminal()
    if interactive:
        click.echo("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends the conversation.", err=True)

    async def connect() -> AsyncClient:
        return connection.client()

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        # A conversation at a terminal may become longer than any context, so turns that do not fit are dropped.
        conversation = AsyncConversation(client, system, trim=True)
        try:
            code = Dialogue(runner, conversation, connection.call(generates=True), options, interactive).run(reader())
        finally:
            runner.run(client.close())
    if not interactive:  # at a terminal the person has seen the errors
        raise click.exceptions.Exit(code)
