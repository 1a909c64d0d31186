"""Compares our server with its peers, on the same checkpoint and the same prompts.

One peer at a time runs beside our server. Both get every round, one right after the other, each first in turn, while
the other is idle. Each such pass gives a ratio, ours divided by the peer's, and the median of the passes counts. A
greedy trial first shows whether both compute the same model. Progress goes to standard error; the last line is one JSON
object.

    python benchmarks/compare.py /tmp/peers/mid --levels 1 4 16
    python benchmarks/compare.py /tmp/peers/mid --peers ours static --ours="--max-sequences 8"

The peer `ours` is our server without the flags of `--ours`.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import isa
from environments import ENVIRONMENTS, interpreter
from figures import Figures, Pass, Row, table
from peer import IDLE_CORES, Contestant, Peer, PeerError, Skipped
from workload import Workload

from index_grpc.text.tokenizer import Tokenizer

TRIAL_TOKENS = 8
MOST_ROUNDS, MOST_AT_ONCE = 25, 256


def contestants(directory: Path, environments: Path) -> dict[str, Contestant]:
    """All peers by name. Whether one is installed shows when it is started."""
    llama = directory / "llama"
    llamacpp, vllm = interpreter(environments, isa.llamacpp()), interpreter(environments, "vllm")
    everyone = [
        Contestant("tutorial", "tutorial", llama),
        Contestant("static", "static", llama),
        Contestant("continuous", "continuous", llama),
        Contestant("llamacpp", "llamacpp", directory / "f32.gguf", llamacpp),
        Contestant("llamacpp_q8_0", "llamacpp", directory / "q8_0.gguf", llamacpp),
        Contestant("vllm", "vllm_cpu", llama, vllm),
        Contestant("ours", "ours", llama),
    ]
    return {one.name: one for one in everyone}


def compare(options: argparse.Namespace) -> Iterator[Row | str]:
    """Yields each row, or a sentence that says why a peer has none. Raises Skipped or PeerError for our own server."""
    everyone = contestants(options.directory, options.environments)
    ours = replace(everyone["ours"], name="our server", flags=tuple(shlex.split(options.ours)))
    with Peer(ours, options.threads) as own:
        tokenizer = Tokenizer.load(ours.checkpoint)
        workload = Workload(tokenizer, options.prompt_tokens, options.tokens, not options.greedy, options.seed)
        for name in options.peers:
            note(f"starting {name}")
            try:
                with Peer(everyone[name], options.threads) as other:
                    note(f"{name}: {', '.join(f'{key} {value}' for key, value in other.versions.items())}")
                    for at_once in options.levels:
                        yield compare_level(own, other, workload, at_once, options.rounds)
            except Skipped as reason:
                yield str(reason)
            except PeerError as error:
                yield f"failed: {error}"


def compare_level(ours: Peer, other: Peer, workload: Workload, at_once: int, num_rounds: int) -> Row:
    """Measures all rounds of one level. Raises PeerError."""
    same, passes = same_answers(ours, other, workload, at_once), []
    for number in range(num_rounds):
        work = workload.round(f"{other.name}/{at_once}/{number}", at_once)
        found: dict[Peer, Figures] = {}
        for peer in (ours, other) if number % 2 == 0 else (other, ours):
            found[peer] = Figures.of(peer.round(work))
            settle(peer)
        passes.append(Pass(found[ours], found[other]))
        note(f"{at_once} at once, pass {number + 1}: ours {found[ours]}; {other.name} {found[other]}")
    return Row.of(other.name, at_once, same, passes)


def same_answers(ours: Peer, other: Peer, workload: Workload, at_once: int) -> float:
    """The share of equal answers in a short greedy round, which also warms up both sides."""
    trial = replace(workload, max_tokens=TRIAL_TOKENS, sampled=False).round(f"{other.name}/{at_once}/trial", at_once)
    answers = []
    for peer in (ours, other):
        found = peer.round(trial)
        settle(peer)
        texts = [workload.text(ids) if ids else text for ids, text in zip(found.ids, found.texts, strict=True)]
        # Our server leaves out bytes that form no character; others write a replacement character.
        answers.append([text.replace("\N{REPLACEMENT CHARACTER}", "").strip() for text in texts])
    return float(sum(first == second for first, second in zip(*answers, strict=True)) / at_once)


def settle(peer: Peer) -> None:
    """Waits until this side leaves the processor to the other one, or reports that it does not."""
    if (burnt := peer.settle()) > IDLE_CORES:
        note(f"{peer.name} burns {burnt:.2f} cores while idle, so what the other side shows next is too slow")


def note(text: str) -> None:
    """Prints progress."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(contestants(Path(), Path()))
    others = [name for name in names if name != "ours"]
    parser.add_argument("directory", type=Path, help="what convert.py wrote")
    parser.add_argument("--peers", nargs="+", choices=names, default=others, metavar="NAME", help=", ".join(names))
    parser.add_argument("--levels", nargs="+", type=int, default=[1, 4, 16], help="prompts at once (default 1 4 16)")
    parser.add_argument("--rounds", type=int, default=3, help="passes at each level (default 3)")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="of each prompt (default 64)")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token; default: draw as by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each side (default: all cores)")
    parser.add_argument("--ours", default="", help='flags of our server, as in --ours="--max-sequences 8"')
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where environments.py made them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 1 <= options.rounds <= MOST_ROUNDS or not all(1 <= level <= MOST_AT_ONCE for level in options.levels):
        parser.error(f"--rounds is 1 to {MOST_ROUNDS}, each of --levels 1 to {MOST_AT_ONCE}")
    return options


def main() -> None:
    options = parse()
    rows: list[Row] = []
    absent: list[str] = []
    try:
        for found in compare(options):
            if isinstance(found, Row):
                rows.append(found)
            else:
                note(found)
                absent.append(found)
    except (Skipped, PeerError) as error:
        sys.exit(str(error))
    print(table(rows))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    print(json.dumps({"settings": settings, "rows": [asdict(row) for row in rows], "absent": absent}))


if __name__ == "__main__":
    main()
