"""Files that are replaced while the server runs."""

import asyncio
import os
from pathlib import Path

import pytest

from index_grpc.access.files import Reloaded, content, keep_fresh
from index_grpc.errors import StartupError
from tests.server.asking import until


def watched(*paths: Path) -> Reloaded[list[bytes]]:
    return Reloaded("the words", paths, lambda: [checked(path) for path in paths])


def checked(path: Path) -> bytes:
    text = content("--words", path)
    if text == b"broken":
        raise StartupError(f"{path.name} is broken")
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("old")
    return path


def test_a_file_with_new_contents_is_read_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = watched(path)
    words.refresh()
    assert caplog.messages == []
    path.write_text("new and longer")
    words.refresh()
    words.refresh()
    assert (words.value, caplog.messages) == ([b"new and longer"], ["replaced the words"])


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(path: Path) -> None:
    words = watched(path)
    before = path.stat()
    other = path.with_name("other")
    other.write_text("new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    words.refresh()
    assert words.value == [b"new"]


def test_a_link_that_now_leads_to_another_folder_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces a Secret like this: the file is a link through `..data`, which is a link to a folder."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words").write_text(name)
    data = tmp_path / "..data"
    data.symlink_to("first")
    (tmp_path / "words").symlink_to("..data/words")
    words = watched(tmp_path / "words")
    fresh = tmp_path / "..data_tmp"
    fresh.symlink_to("second")
    fresh.replace(data)
    words.refresh()
    assert words.value == [b"second"]


def test_a_broken_file_is_reported_once_and_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = watched(path)
    path.write_text("broken")
    words.refresh()
    words.refresh()
    assert caplog.messages == ["words is broken; what was read before stays in force"]
    path.unlink()
    words.refresh()
    words.refresh()
    assert caplog.messages[1:] == [
        f"--words {path} cannot be read (No such file or directory); check its path and permissions; "
        "what was read before stays in force"
    ]
    assert words.value == [b"old"]
    path.write_text("mended")
    words.refresh()
    assert words.value == [b"mended"]


def test_a_new_modification_time_alone_is_not_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = watched(path)
    os.utime(path, (1, 1))
    words.refresh()
    assert caplog.messages == []


async def test_files_are_still_checked_after_an_unexpected_exception(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.001)

    reads: list[str] = []

    def read() -> str:
        reads.append(path.read_text())
        return {"old": "old", "new": "new"}[reads[-1]]  # KeyError is not a StartupError

    words = Reloaded("the words", [path], read)
    looking = asyncio.create_task(keep_fresh([words]))
    await asyncio.to_thread(path.write_text, "neither")
    await until(lambda: "trying again" in caplog.text)
    num_reads = len(reads)
    await until(lambda: len(reads) > num_reads + 3)
    assert caplog.text.count("trying again") == 1
    await asyncio.to_thread(path.write_text, "new")
    await until(lambda: words.value == "new")
    looking.cancel()


def test_reading_is_tried_again_after_an_unexpected_exception(path: Path) -> None:
    failures: list[Exception | None] = [None, None]

    def read() -> str:
        if (failure := failures.pop()) is not None:
            raise failure
        return path.read_text()

    words = Reloaded("the words", [path], read)
    failures.append(KeyError("a bug"))
    path.write_text("new and longer")
    with pytest.raises(KeyError):
        words.refresh()
    words.refresh()
    assert words.value == "new and longer"


def test_a_change_while_reading_is_seen_the_next_time(path: Path) -> None:
    late = ["later"]

    def read() -> str:
        text = path.read_text()
        if late:
            path.write_text(late.pop())
        return text

    words = Reloaded("the words", [path], read)
    assert words.value == "old"
    words.refresh()
    assert words.value == "later"
