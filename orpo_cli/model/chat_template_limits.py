"""Limits of chat templates: size of the template and of the texts and integers that it computes.

Templates come from strangers. The sandbox of transformers keeps them from files and from Python's internals, not from loops that
never end and texts that double. Operations that make a large value at once are checked here before they run;
``chat_template_watch`` ends what takes long or fills the memory in small steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
from jinja2.compiler import CodeGenerator
from jinja2.runtime import LoopContext, new_context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orpo_cli.model.chat_template_watch import ChatTemplateLimit, watched

MAX_TEMPLATE_CHARS = 1 << 20  # the largest published templates have about 30,000
MAX_TEXT_CHARS = 1 << 26  # of a rendering and of each value in it; a row has at most a quarter of it by default
MAX_INT_BITS = 1 << 16
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "wordwrap", "batch", "slice", "tojson")
_FILTERS = ("center", "indent", "wordwrap", "replace", "join", "format", "batch", "slice", "tojson")
_LOOP_ATTRIBUTES = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})  # numbers


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

    return list(watched(render))


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
            return str(watched(super().render, *args, **kwargs))
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
        return watched(super().from_string, source, *args, **kwargs)

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
