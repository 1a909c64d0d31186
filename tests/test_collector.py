"""How many objects Python's garbage collector still visits when a model is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import index_grpc.server.lifetime as lifetime
from index_grpc.cli import main

async def serve(settings, load, ports):
    kept = load()
    tell()

lifetime.serve = serve
main(["serve", "--model", sys.argv[1], "--device", "cpu", "--no-engine-process"])
"""
ENGINE = """
import socket
from queue import SimpleQueue

from index_grpc import engine_process
from index_grpc.settings import ServeSettings

class Loop(engine_process.Loop):
    def run(self):
        tell()

engine_process.Loop = Loop
ours, its = socket.socketpair()
settings = ServeSettings.model_validate({"model": sys.argv[1], "device": "cpu"})
engine_process.run(settings, its, SimpleQueue())
"""
TELLING = """
import gc, json, sys

def tell():
    print(json.dumps([gc.get_freeze_count(), len(gc.get_objects()), gc.isenabled()]))
"""


@pytest.mark.parametrize("process", [SERVER, ENGINE], ids=["the server's", "the engine's"])
def test_loaded_objects_are_not_visited_again(checkpoint: Path, process: str) -> None:
    command = [sys.executable, "-c", TELLING + process, str(checkpoint)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    num_spared, num_walked, collects = json.loads(told.splitlines()[-1])
    assert num_spared > 50_000, "modules, the vocabulary, the weights"
    assert num_walked < num_spared / 20
    assert collects, "what calls leave behind"


LOADED_AGAIN = """
import gc, sys, weakref
import index_grpc.server.lifetime as lifetime
from index_grpc.cli import main

class Call:
    def __init__(self):
        self.itself = self

async def serve(settings, load, ports):
    kept = load()
    call = Call()
    gone = weakref.ref(call)
    kept = load()
    del call
    gc.collect()
    print(gone() is None)

lifetime.serve = serve
main(["serve", "--model", sys.argv[1], "--device", "cpu", "--no-engine-process"])
"""


def test_calls_that_are_open_while_an_engine_is_replaced_are_collected_later(checkpoint: Path) -> None:
    command = [sys.executable, "-c", LOADED_AGAIN, str(checkpoint)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert told.splitlines()[-1] == "True"
