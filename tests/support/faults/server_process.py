"""Fork server process: imports the libraries once, then forks a child per command. ``fork_server`` starts it and talks to it.

A child is as close to a new process as possible: its own session, streams, working directory, environment, limits and seeds. It ends
as an interpreter does, with threads joined and exit functions called. No thread may be alive when the server forks.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.default_signals import restore_default_signals
from support.faults.file_operations import (
    FileOperations,
    fill_disk_at,
    kill_at,
    record_to,
    replace_everywhere,
    wrap_native_writers,
)
from support.forks import end_with_parent

PRELOADED = (
    "numpy.random", "torch", "torch.serialization", "safetensors.torch", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.integrations.bitsandbytes", "transformers.integrations.tensor_parallel",
    "transformers.trainer", "peft", "datasets", "accelerate", "bitsandbytes", "psutil", "jinja2.sandbox", "rich.console", "rich.live",
)  # fmt: skip


def preload() -> None:
    """Import what a training imports."""
    from orpo_cli.library_messages import silence_libraries

    silence_libraries()
    import orpo_cli

    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"not preloaded: {name}", file=sys.stderr)
    import torch

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(orpo_cli.__path__, "orpo_cli."):
        if "__main__" not in module.name and "._recipes" not in module.name:
            importlib.import_module(module.name)
    wrap_native_writers()


def serve(connection: socket.socket) -> None:
    """Answer requests, a line of JSON each, until the connection is closed."""
    threads = [name for name in map(_thread_name, os.listdir("/proc/self/task")) if name != "jemalloc_bg_thd"]
    stream = connection.makefile("rw")
    print(json.dumps({"ready": True, "threads": len(threads)}), file=stream, flush=True)
    children: dict[int, int | None] = {}
    for line in stream:
        request = json.loads(line)
        answer = globals()[f"answer_{request.pop('request')}"](children, **request)
        print(json.dumps(answer), file=stream, flush=True)
    for child in [child for child, status in children.items() if status is None]:
        _kill_session(child)


def _thread_name(thread: str) -> str:
    """The name of a thread; jemalloc's (of pyarrow) handles forks itself."""
    return Path(f"/proc/self/task/{thread}/comm").read_text().strip()


def answer_start(children: dict[int, int | None], **command: Any) -> dict[str, Any]:
    """Fork a child that runs ``command``."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        run_child(command)
    children[child] = None
    return {"pid": child}


def answer_wait(children: dict[int, int | None], pid: int, seconds: float) -> dict[str, Any]:
    """The exit status of a child (minus the number of a signal), None after ``seconds``."""
    end = time.monotonic() + seconds
    while children[pid] is None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > end:
            break
        else:
            time.sleep(0.003)
    return {"status": children[pid]}


def answer_kill(children: dict[int, int | None], pid: int) -> dict[str, Any]:
    """End a child and the processes that it started."""
    _kill_session(pid)
    return {}


def answer_mount(children: dict[int, int | None], folder: str, size: int, remount: bool) -> dict[str, Any]:
    """Mount a file system in memory with ``size`` bytes, or change the size of a mounted one."""
    flags = 32 if remount else 0
    error = _libc_error("mount", b"tmpfs", folder.encode(), b"tmpfs", flags, f"size={size}".encode())
    return {"error": error}


def answer_unmount(children: dict[int, int | None], folder: str) -> dict[str, Any]:
    """Unmount, also where a file is open."""
    return {"error": _libc_error("umount2", folder.encode(), 2)}


def _libc_error(function: str, *arguments: Any) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    return None if getattr(libc, function)(*arguments) == 0 else os.strerror(ctypes.get_errno())


def _kill_session(child: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def use_own_mounts() -> None:
    """A mount namespace of its own, so that mounts need no rights on the machine and end with the server."""
    user, group = os.getuid(), os.getgid()
    new_user, new_mounts = (0, 0x20000) if user == 0 else (0x10000000, 0x20000)
    if _libc_error("unshare", new_user | new_mounts) is not None or user == 0:
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def run_child(command: dict[str, Any]) -> None:
    """The child: set it up as ``command`` says, run the command line, and end the process."""
    code = 1
    try:
        os.close(int(sys.argv[1]))  # the connection of the server
        _set_up(command)
        code = _run_command_line(command["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                code = code or 120
        os._exit(code)


def _set_up(command: dict[str, Any]) -> None:
    os.setsid()
    end_with_parent()
    for descriptor, (name, flags) in enumerate(
        [(command["stdin"], os.O_RDONLY)]
        + [(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
    ):
        opened = os.open(name, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(command["folder"])
    for name, value in command["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for name, value in command["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for number in command["ignored_signals"]:
        signal.signal(number, signal.SIG_IGN)
    random.seed()
    import numpy

    numpy.random.seed()
    while time.time() < command["start_at"]:
        time.sleep(0.0005)
    if command["fault"]:
        install_fault(**command["fault"])


def _run_command_line(arguments: list[str]) -> int:
    from orpo_cli.cli.main import main

    sys.argv = ["orpo", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return int(code)


def install_fault(kind: str, folder: str, **settings: Any) -> None:
    """Install the fault of a command; ``folder`` is the one whose file operations count."""
    if kind == "signals":
        for each in settings["signals"]:
            signal_at_call(**each)
        return
    make = {"record": record_to, "kill": kill_at, "fill": fill_disk_at}[kind]
    if "ballast" in settings:
        settings["ballast"] = Path(settings["ballast"])
    FileOperations(Path(folder), make(**settings)).start()  # type: ignore[operator]


def signal_at_call(function: str, number: int, call: int = 1, delay: float = 0.0) -> None:
    """Send signal ``number`` to this process when ``function`` (``module:name``) is called for the ``call``-th time."""
    module_name, _, name = function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, attribute = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original, calls = getattr(owner, attribute), 0

    def send() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), number)

    def signalled(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and delay:
            threading.Thread(target=send, daemon=True).start()
        elif calls == call:
            send()
        return original(*arguments, **keywords)

    if classes:
        setattr(owner, attribute, signalled)
    else:
        replace_everywhere(original, signalled)


if __name__ == "__main__":
    end_with_parent()
    restore_default_signals()
    use_own_mounts()
    preload()
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
