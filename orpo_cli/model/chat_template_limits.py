"""Limits of chat templates: size of the template and of texts, time and memory of a rendering.

Templates come from strangers. The sandbox of transformers keeps them from files and from Python's internals, not from loops that
never end and texts that double. A thread cannot be stopped from outside while it is in C, so operations that make a large value
at once are checked before they run; a second thread ends what takes long or fills the memory in small steps.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.compiler import CodeGenerator
from jinja2.runtime import LoopContext, new_context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orpo_cli.errors import DataError

MAX_TEMPLATE_CHARS = 1 << 20  # the largest published templates have about 30,000
MAX_TEXT_CHARS = (
    1 << 26
)  # of a rendering, and of each value in it; a row of data has at most a quarter of it by default
MAX_INT_BITS = 1 << 16
MAX_CPU_SECONDS = 20.0  # of one rendering; a template of 200 lines takes less than a millisecond per message
MAX_MEMORY_BYTES = 2 << 30  # growth of the process during one rendering
_CHECK_SECONDS = 0.1
_IDLE_SECONDS = 5.0
_REPEAT_SECONDS = 1.0
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "wordwrap", "batch", "slice", "tojson")
_FILTERS = ("center", "indent", "wordwrap", "replace", "join", "format", "batch", "slice", "tojson")
_LOOP_ATTRIBUTES = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})  # numbers
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ChatTemplateLimit(DataError):
    """A chat template exceeds one of the limits; ``stopped`` by the thread that watches it."""

    line: int | None = None

    def __init__(self, reason: str, *, stopped: bool = False) -> None:
        super().__init__(reason)
        self.stopped = stopped


class _Stopped(BaseException):
    """Raised in the thread of a rendering by the thread that watches it."""


def limit_chat_templates() -> None:
    """Make transformers compile chat templates with these limits, in this process."""
    from transformers.utils import chat_template_utils

    if chat_template_utils.ImmutableSandboxedEnvironment is not LimitedEnvironment:
        chat_template_utils.ImmutableSandboxedEnvironment = LimitedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()


def render_conversations(
    template: jinja2.Template, conversations: Sequence[Sequence[dict[str, Any]]], variables: dict[str, Any]
) -> list[str]:
    """The rendering of each conversation, with the limits of one rendering for all of them. Raises ChatTemplateLimit.

    They are watched together: to begin and end a watch takes as long as a short rendering.
    """

    if len(conversations) == 1:
        return [template.render(messages=conversations[0], **variables)]
    concat, root, blocks = template.environment.concat, template.root_render_func, template.blocks
    names = dict(template.globals)  # a ChainMap, which is slow
    given = names | variables

    def render() -> list[str]:  # as Template.render does, which joins the variables for each conversation
        contexts = (
            new_context(template.environment, template.name, blocks, given | {"messages": messages}, True, names)
            for messages in conversations
        )
        return [concat(root(context)) for context in contexts]

    return list(_watched(render))


def template_line(error: BaseException) -> int | None:
    """Line of the template at which it failed."""
    if isinstance(error, ChatTemplateLimit) and error.line is not None:
        return error.line
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _LimitedCode(CodeGenerator):
    """Code generator that leaves concatenation (``~``) to the environment."""

    def visit_Concat(self, node: Any, frame: Any) -> None:
        """Write ``environment.concatenate((…, …))``."""
        self.write("environment.concatenate((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class _LimitedTemplate(jinja2.Template):
    """Template whose rendering is watched."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Render as jinja2 does. Raises ChatTemplateLimit."""
        try:
            return str(_watched(super().render, *args, **kwargs))
        except ChatTemplateLimit as error:
            line = template_line(error)
            if line is not None:  # of the code that jinja2 compiles, if it was stopped
                error.line = self.get_corresponding_lineno(line) if error.stopped else line
            raise


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' sandbox with limits for templates and texts."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _LimitedCode
    template_class = _LimitedTemplate

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile a template. Raises ChatTemplateLimit."""
        if len(str(source)) > MAX_TEMPLATE_CHARS:
            raise ChatTemplateLimit(f"it has {len(str(source)):,} characters, more than {MAX_TEMPLATE_CHARS:,}")
        for name in _FILTERS:  # transformers has added its own
            self.filters[name] = _limited_filter(name, self.filters[name])
        return _watched(super().from_string, source, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute, as the sandbox gives it; without its checks for the numbers of a loop, which are the most frequent."""
        if type(obj) is LoopContext and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The texts in sequence: of a rendering, a macro or a block."""
        found, size = [], 0
        for part in parts:
            size += len(part)
            if size > MAX_TEXT_CHARS:
                _check_size(size)
            found.append(part)
        return "".join(found)

    def concatenate(self, values: Iterable[Any]) -> str:
        """The operator ``~``."""
        return self.concat(map(str, values))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An intercepted operator, if its result has an acceptable size."""
        if operator == "+":
            if type(left) is str and type(right) is str and len(left) + len(right) <= MAX_TEXT_CHARS:
                return left + right  # nearly every operation of a template
            if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
                _check_size(len(left) + len(right))
        elif operator == "%":
            if isinstance(left, str):
                _check_format(left, right if isinstance(right, tuple) else (right,))
        elif operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(count, int):
                    _check_size(len(value) * count)
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """``str.format`` of the sandbox, after a check of its widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def limited(*args: Any, **kwargs: Any) -> Any:
            _check_format(str(value.__self__), (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return limited

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, after a check of the size where it is a method of a text."""
        text = getattr(function, "__self__", None)
        if isinstance(text, str):
            _check_method(getattr(function, "__name__", ""), text, args, kwargs)
        return super().call(context, function, *args, **kwargs)


def _limited_filter(name: str, function: Any) -> Any:
    """The filter with a check of its arguments; jinja2's marks for arguments (``pass_environment``) are kept."""
    passes_context = hasattr(function, "jinja_pass_arg")

    def limited(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[1:] if passes_context else args
        if name == "join":
            value = value if isinstance(value, str) else list(value)
            _check_size(len(str(rest[0] if rest else kwargs.get("d", ""))) * len(value))
            args = (*args[: len(args) - len(rest) - 1], value, *rest)
        else:
            _check_method(name, value if isinstance(value, str) else "", tuple(rest), kwargs)
        return function(*args, **kwargs)

    limited.__dict__.update(function.__dict__)
    return limited


def _check_method(name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    values = (*args, *kwargs.values())
    if name == "replace" and len(values) >= 2:
        old, new = str(values[0]), str(values[1])
        count = text.count(old) if old else len(text) + 1
        _check_size(len(text) + count * len(new))
    elif name == "join" and values and isinstance(values[0], list | tuple):
        _check_size(len(text) * len(values[0]))
    elif name in ("format", "format_map"):
        _check_format(text, values)
    elif name == "indent" and values:
        width = values[0]
        _check_size((text.count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))
    elif name in _PADDING:
        for value in values:
            if isinstance(value, int):
                _check_size(value * (text.count("\t") + 1 if name == "expandtabs" else 1))


def _check_format(text: str, values: Iterable[Any]) -> None:
    """A width is a number in the format or, with ``*`` or nested braces, a value."""
    for number in re.findall(r"\d{5,}", text):
        _check_size(int(number[:12]))
    if "*" in text or "{" in text:
        for value in values:
            if isinstance(value, int):
                _check_size(value)


def _check_size(size: int) -> None:
    if size > MAX_TEXT_CHARS:
        raise ChatTemplateLimit(f"it makes a text or list of {size:,} elements, more than {MAX_TEXT_CHARS:,}")


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise ChatTemplateLimit(f"it computes an integer of {bits:,} bits, more than {MAX_INT_BITS:,}")


@dataclass
class _Rendering:
    """A rendering that is watched; the first check sets its clock. ``reason``: why it was stopped."""

    clock: int | None = None  # of the CPU time of its thread, where the system has one
    started: float | None = None
    memory: int = 0
    reason: str = ""
    stopped_at: float = 0.0

    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.monotonic() if self.clock is None else time.clock_gettime(self.clock)


_lock = threading.Lock()
_renderings: dict[int, _Rendering] = {}  # by thread
_watcher: threading.Thread | None = None


def _forget_renderings() -> None:
    """In a forked process: a thread that it does not have may hold the lock, and its renderings are not here."""
    global _lock, _watcher
    _lock, _watcher = threading.Lock(), None
    for thread in [each for each in _renderings if each != threading.get_ident()]:
        del _renderings[thread]


os.register_at_fork(after_in_child=_forget_renderings)


def _watched(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` and end it where it exceeds the limits of time or memory. Raises ChatTemplateLimit."""
    thread = threading.get_ident()
    if thread in _renderings:
        return function(*args, **kwargs)
    rendering = _Rendering()
    try:
        try:
            with _lock:
                _renderings[thread] = rendering
                _start_watcher()
            return function(*args, **kwargs)
        finally:
            _end_watch(thread, rendering)
    except _Stopped as error:
        _end_watch(thread, rendering)
        raise ChatTemplateLimit(rendering.reason, stopped=True).with_traceback(error.__traceback__) from None


def _end_watch(thread: int, rendering: _Rendering) -> None:
    with _lock:
        _renderings.pop(thread, None)
        if rendering.reason:  # not raised yet, if the rendering ended at the same moment
            _raise_pending(thread)


def _raise_pending(thread: int) -> None:
    """Let the exception that may be pending for this thread be raised here, and catch it.

    PyThreadState_SetAsyncExc can also withdraw it. But the interpreter of Python 3.11 then checks for it forever, which makes
    all code slower, and a profiled function may never end.
    """
    with suppress(_Stopped):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
        while True:  # the interpreter looks for exceptions before each repetition
            pass


def _start_watcher() -> None:
    global _watcher
    if _watcher is None or not _watcher.is_alive():
        _watcher = threading.Thread(target=_watch, name="chat-template-limits", daemon=True)
        _watcher.start()


def _watch() -> None:
    """Stop renderings that exceed a limit, until there was none for some seconds."""
    global _watcher
    last_active = time.monotonic()
    while True:
        time.sleep(_CHECK_SECONDS)
        now = time.monotonic()
        with _lock:
            for thread, rendering in _renderings.items():
                last_active = now
                rendering.reason = rendering.reason or _exceeded(thread, rendering)
                if rendering.reason and now - rendering.stopped_at > _REPEAT_SECONDS:
                    rendering.stopped_at = now  # repeated, since an exception in a destructor is ignored
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
            if now - last_active > _IDLE_SECONDS:
                _watcher = None
                return


def _exceeded(thread: int, rendering: _Rendering) -> str:
    memory = _memory_bytes()
    if rendering.started is None:
        rendering.clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else None
        rendering.started, rendering.memory = rendering.seconds(), memory
    if rendering.seconds() - rendering.started > MAX_CPU_SECONDS:
        return f"it takes longer than {MAX_CPU_SECONDS:g} s"
    too_much = memory - rendering.memory > MAX_MEMORY_BYTES
    return f"it needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory" if too_much else ""


def _memory_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
