"""Finding models by name: the demo, directories, and downloads from a fake hub over real HTTP."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from index_grpc.errors import CheckpointError
from index_grpc.loading.checkpoint import download
from index_grpc.model import hub
from tests.checkpoints import make_checkpoint
from tests.model.fake_hub import COMMIT, MODEL, FakeHub, serve_hub

TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The hub's files: a checkpoint, and code that must never be fetched."""
    directory = make_checkpoint(tmp_path / "repository", **TINY)
    for name in ("modeling_index.py", "configuration_index.py", "README.md"):
        (directory / name).write_text("raise SystemExit('remote code ran')")
    return directory


@pytest.fixture
def fake_hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with serve_hub(repository) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_demo_is_the_embedded_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "DEMO_DIRECTORY", tmp_path / "embedded")
    assert hub.resolve("demo") == ("demo", tmp_path / "embedded")


def test_directory_is_served_under_its_name_dots_included(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve(str(checkpoint)) == ("Tiny-0.1B.Chat", checkpoint)
    monkeypatch.chdir(checkpoint)
    assert hub.resolve(".")[0] == "Tiny-0.1B.Chat"


@pytest.mark.parametrize("model", ["", "nowhere", "/no/such/directory", "./a/b", "a/b/c", "owner/name?x"])
def test_what_is_neither_directory_nor_hub_id_is_named(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a hub id") as caught:
        hub.resolve(model)
    assert repr(model) in str(caught.value)


def test_file_in_place_of_a_directory(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; pass its directory"):
        hub.resolve(str(checkpoint / "config.json"))


def test_revision_belongs_to_hub_models(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="revision 'v1'"):
        hub.resolve(str(checkpoint), "v1")


def test_resolve_fetches_data_and_no_code(fake_hub: FakeHub) -> None:
    name, directory = hub.resolve(MODEL)
    assert name == MODEL
    assert fake_hub.fetched == {*hub.SMALL_FILES, "pytorch_model.bin"}
    assert {file.name for file in directory.iterdir()} == fake_hub.fetched


@pytest.mark.parametrize("form", ["safetensors", "sharded_safetensors"])
def test_safetensors_are_fetched_in_place_of_pickles(fake_hub: FakeHub, form: str) -> None:
    make_checkpoint(fake_hub.directory, **TINY, form=form)
    download(MODEL)
    assert not any(file.endswith((".bin", ".py")) for file in fake_hub.fetched)


def test_second_resolve_fetches_nothing_and_works_offline(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    _, directory = hub.resolve(MODEL)
    fake_hub.requests.clear()
    assert hub.resolve(MODEL)[1] == directory
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(MODEL)[1] == directory
    assert not fake_hub.fetched


def test_broken_transfer_goes_on_where_it_broke(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    fake_hub.cuts["pytorch_model.bin"] = 1
    size = (fake_hub.directory / "pytorch_model.bin").stat().st_size
    try:
        directory = download(MODEL, None, tmp_path / "output")
    except CheckpointError:  # version 1 of the hub's client resumes only in the next run
        directory = download(MODEL, None, tmp_path / "output")
    ranges = [asked for method, file, asked in fake_hub.requests if method == "GET" and file == "pytorch_model.bin"]
    assert ranges == ["", f"bytes={size // 2 // 1000 * 1000}-"]
    assert (directory / "pytorch_model.bin").read_bytes() == (fake_hub.directory / "pytorch_model.bin").read_bytes()


def test_download_again_fetches_only_what_is_missing(fake_hub: FakeHub, tmp_path: Path) -> None:
    directory = download(MODEL, "main", tmp_path / "output")
    assert directory == tmp_path / "output"
    (directory / "pytorch_model.bin").unlink()
    fake_hub.requests.clear()
    download(MODEL, COMMIT, tmp_path / "output")
    assert fake_hub.fetched == {"pytorch_model.bin"}


def test_download_without_output_fills_the_cache(fake_hub: FakeHub) -> None:
    assert download(MODEL, None, None) == hub.resolve(MODEL)[1]


def test_what_was_downloaded_is_served_offline(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = download(MODEL)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(MODEL) == (MODEL, directory)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.model", "pytorch_model.bin"])
def test_incomplete_repository_is_named(fake_hub: FakeHub, tmp_path: Path, missing: str) -> None:
    (fake_hub.directory / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        download(MODEL, None, tmp_path / "output")


def test_weights_of_another_model_are_refused(fake_hub: FakeHub, tmp_path: Path) -> None:
    config = fake_hub.directory / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.input_layernorm\.weight \[32\] is missing"):
        download(MODEL, None, tmp_path / "output")


def test_tokenizer_of_another_model_is_refused(fake_hub: FakeHub, tmp_path: Path) -> None:
    config = fake_hub.directory / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 500', '"vocab_size": 400'))
    with pytest.raises(CheckpointError, match="500 pieces and the model only 400"):
        download(MODEL, None, tmp_path / "output")


def _resolve(tmp_path: Path) -> object:
    return hub.resolve(MODEL, "v9")


def _download(tmp_path: Path) -> object:
    return download(MODEL, "v9", tmp_path / "output")


@pytest.mark.parametrize("fetch", [_resolve, _download])
@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((404, "RepoNotFound"), "neither a directory nor a model at"),
        ((401, "RepoNotFound"), "neither a directory nor a model at"),
        ((403, "GatedRepo"), "is gated; accept its terms"),
        (None, "has no revision 'v9'"),
        ((418, ""), "refused .*HF_ENDPOINT"),
    ],
)
def test_refusals_are_explained(
    fake_hub: FakeHub,
    tmp_path: Path,
    fetch: Callable[[Path], object],
    refusal: tuple[int, str] | None,
    sentence: str,
) -> None:
    fake_hub.refusal = refusal
    with pytest.raises(CheckpointError, match=sentence) as caught:
        fetch(tmp_path)
    assert fake_hub.url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fetch", [_resolve, _download])
def test_no_network_is_explained(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:9 .*HF_ENDPOINT.*demo"):
        fetch(tmp_path)


@pytest.mark.parametrize("fetch", [_resolve, _download])
def test_offline_without_the_files_is_explained(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        fetch(tmp_path)


def test_old_output_does_not_hide_a_wrong_name(fake_hub: FakeHub, tmp_path: Path) -> None:
    download(MODEL, None, tmp_path / "output")
    with pytest.raises(CheckpointError, match="neither a directory nor a model"):
        download("IndexTeam/Misspelt", None, tmp_path / "output")


@pytest.mark.parametrize("model", ["demo", "/tmp", ""])
def test_only_hub_models_are_downloaded(model: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"model {model!r} is not a hub id"):
        download(model, None, tmp_path)


def test_full_disk_is_explained(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", no_space)
    with pytest.raises(CheckpointError, match=f"no space is left in {tmp_path / 'output'}"):
        download(MODEL, None, tmp_path / "output")
