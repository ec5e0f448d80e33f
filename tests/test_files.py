"""Files and folders are complete or not there, whoever is killed; a locked folder has one writer."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from hicom_hf.hub import files
from hicom_hf.hub.files import (
    FolderLock,
    append_json_line,
    atomic_file,
    atomic_folder,
    changed_files,
    file_fingerprint,
    folder_fingerprints,
    read_json_lines,
    remove_folder,
    remove_leftovers,
    settings_fingerprint,
    write_text,
)


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def workplace(destination: Path, process: int, host: str | None = None) -> Path:
    path = destination.with_name(f"{destination.name}.unfinished-{host or files._host()}-{process}-abc")
    path.mkdir(parents=True)
    return path


# Writing -------------------------------------------------------------------------------------------------------------------


def test_a_file_appears_at_the_end_under_its_name_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "notes.json"
    for content in ("first", "second"):
        with atomic_file(path) as written:
            assert written.name == "notes.json"  # writers that choose a format by the suffix are served
            written.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert names(path.parent) == ["notes.json"]
    write_text(path, "third")
    assert path.read_bytes() == b"third\n"


def test_a_file_or_folder_whose_writing_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model", replace=True) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "model" / "weights") as path:
        path.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["weights"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_a_folder_replaces_another_one_only_if_it_may(tmp_path):
    (tmp_path / "model").mkdir()
    with atomic_folder(tmp_path / "model") as folder:  # empty: nothing is lost
        assert folder.name == "model"
        (folder / "a").write_text("new")
    with pytest.raises(FileExistsError, match="model exists already"), atomic_folder(tmp_path / "model") as folder:
        (folder / "b").write_text("newer")
    assert names(tmp_path / "model") == ["a"]
    with atomic_folder(tmp_path / "model", replace=True) as folder:
        (folder / "b").write_text("newer")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["b"]
    (tmp_path / "file").write_text("a file")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "file", replace=True):
        pass
    assert (tmp_path / "file").read_text() == "a file"


def test_everything_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls, fsync = [], os.fsync
    monkeypatch.setattr(
        files.os, "fsync", lambda fd: (calls.append(Path(os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd))
    )
    for name in ("rename", "replace"):
        move = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *paths, move=move: (calls.append("named"), move(*paths)))
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
    before, after = calls[: calls.index("named")], calls[calls.index("named") + 1 :]
    assert {path.name for path in before} == {"a", "sub", "model"} and after == [tmp_path]
    calls.clear()
    write_text(tmp_path / "file", "text")
    assert [getattr(call, "name", call) for call in calls] == ["file", "named", tmp_path.name]
    calls.clear()
    with atomic_file(tmp_path / "file", durable=False) as path:
        path.write_text("text")
    assert calls == ["named"]


def killed_while_writing(destination: Path, step: str) -> None:
    """What a process does that kills itself before a step of `atomic_folder`."""
    move, calls = os.rename, []

    def rename(*paths):
        calls.append(paths)
        if len(calls) == {"before the exchange": 1, "between the renames": 2}[step]:
            os.kill(os.getpid(), signal.SIGKILL)
        move(*paths)

    files.os.rename = rename
    with atomic_folder(destination, replace=True) as folder:
        (folder / "content").write_text("new")


@pytest.mark.parametrize("step", ["before the exchange", "between the renames"])
def test_a_folder_is_the_old_or_the_new_one_after_a_kill_at_any_moment(step, tmp_path):
    destination = tmp_path / "model"
    destination.mkdir()
    (destination / "content").write_text("old")
    process = get_context("fork").Process(target=killed_while_writing, args=(destination, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert destination.exists() == (step == "before the exchange") and len(list(tmp_path.iterdir())) >= 1
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model"] and (destination / "content").read_text() == "old"


def test_leftovers_of_killed_processes_go_and_all_others_stay(tmp_path, gone):
    dead = workplace(tmp_path / "a", gone)
    other_name = workplace(tmp_path / "b", gone)
    stay = [workplace(tmp_path / "a", os.getpid()), workplace(tmp_path / "a", gone, host="elsewhere")]
    (tmp_path / "a.unfinished-but-mine").mkdir()
    write_text(tmp_path / "a", "text")  # cleans up after its own name
    assert not dead.exists() and other_name.exists()
    remove_leftovers(tmp_path)
    assert not other_name.exists() and all(path.exists() for path in stay)
    assert (tmp_path / "a.unfinished-but-mine").exists()
    remove_leftovers(tmp_path / "nowhere")


def test_a_folder_loses_its_name_before_its_content(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "weights").write_text("")
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **kwargs: None)  # killed before it begins
    remove_folder(folder)
    assert not folder.exists() and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    remove_folder(folder)  # is not there: nothing happens
    folder.mkdir()
    remove_folder(folder)
    assert not folder.exists()


# Lines of JSON -------------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_passed_over_and_costs_no_other(tmp_path, caplog):
    path = tmp_path / "log.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"step": 1})
    append_json_line(path, {"text": "zwei\nä"})
    with path.open("ab") as file:
        file.write('{"step": 3, "text": "ü'.encode()[:-1])  # killed in the middle of a character
    assert read_json_lines(path) == [{"step": 1}, {"text": "zwei\nä"}]
    append_json_line(path, {"step": 4})
    assert read_json_lines(path) == [{"step": 1}, {"text": "zwei\nä"}, {"step": 4}]
    assert "log.jsonl: line 3 is incomplete and is not used" in caplog.text


# Locks ---------------------------------------------------------------------------------------------------------------------


def hold(folder: Path, entered, leave) -> None:
    with FolderLock(folder, "a training run"):
        entered.set()
        leave.wait()


@pytest.mark.parametrize("ends", ["by itself", "kill -9"])
def test_a_locked_folder_refuses_others_by_name_until_its_holder_ends(ends, tmp_path):
    context = get_context("fork")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", entered, leave))
    process.start()
    entered.wait()
    message = rf"run is in use by a training run \(process {process.pid} on {socket.gethostname()}, since .*\); wait"
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=message), FolderLock(tmp_path / "run"):
            pass
    leave.set() if ends == "by itself" else os.kill(process.pid, signal.SIGKILL)
    process.join()
    with FolderLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["process"] == os.getpid()
        with pytest.raises(BlockingIOError, match="in use by this process already"), FolderLock(tmp_path / "run"):
            pass
    assert names(tmp_path / "run") == []


def test_a_lock_taken_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    lockf, calls = files.fcntl.lockf, []

    def remove_once(descriptor, operation):
        if not calls:
            (tmp_path / ".lock").unlink()  # as the holder before does, between our opening and locking it
        calls.append(operation)
        lockf(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "lockf", remove_once)
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").exists() and len(calls) == 2


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "lockf", unsupported)
    with caplog.at_level(logging.WARNING), FolderLock(tmp_path):
        pass
    assert "cannot be locked ([Errno 95] Operation not supported)" in caplog.text


# Fingerprints --------------------------------------------------------------------------------------------------------------


def test_fingerprints_of_settings_depend_on_values_only():
    assert settings_fingerprint({"a": 1, "b": [2]}) == settings_fingerprint({"b": [2], "a": 1})
    assert settings_fingerprint({"a": 1}) != settings_fingerprint({"a": 2})
    assert len(settings_fingerprint({})) == 16


def test_changed_files_are_named_by_size_or_by_content(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c", "sub/d"):
        (tmp_path / name).write_bytes(bytes(100))
    fingerprints = folder_fingerprints(tmp_path)
    assert fingerprints["sub/c"] == {"size": 100, "sha256": file_fingerprint(tmp_path / "sub" / "c")}
    (tmp_path / "added").touch()
    assert changed_files(tmp_path, fingerprints) == []
    (tmp_path / "a").write_bytes(bytes(99))
    (tmp_path / "b").write_bytes(bytes(60) + b"\1" + bytes(39))
    (tmp_path / "sub" / "d").unlink()
    assert changed_files(tmp_path, fingerprints) == ["a", "b", "sub/d"]
    assert changed_files(tmp_path, fingerprints, content=False) == ["a", "sub/d"]


def test_without_the_systems_locks_a_folder_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "fcntl", None)  # as on Windows
    with (
        files.FolderLock(tmp_path / "run", "a training run"),
        files.atomic_folder(tmp_path / "run" / "model") as folder,
    ):
        (folder / "config.json").write_text("{}")
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert "cannot be locked on this system" in caplog.text
