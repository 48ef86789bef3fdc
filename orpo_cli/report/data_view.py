"""What `orpo data` prints: figures as tables, lengths as bars, pairs with each token in the colour of its purpose."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from io import StringIO
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orpo_cli.data.audit import Audit
from orpo_cli.data.report import DataReport
from orpo_cli.data.token_spans import TokenSpan
from orpo_cli.secret_values import mask_secrets

BAR_WIDTH = 40  # characters of the longest bar
STYLES = {
    "prompt": "dim",
    "prompt_nll": "blue",
    "chosen": "green",
    "rejected": "red",
    "end": "bold black on yellow",
}
LOSS_TERMS = {
    "prompt": "context, no loss",
    "prompt_nll": "NLL",
    "chosen": "NLL and odds ratio",
    "rejected": "odds ratio",
    "end": "end token, as the answer around it",
}


def summary_view(report: DataReport, audits: dict[str, Audit], steps: dict[str, Any]) -> Iterator[RenderableType]:
    """The figures of all parts; ``steps`` says how training goes through them."""
    for line in report.lines():
        yield Text(mask_secrets(line))
    for part, found in audits.items():
        yield Text()
        yield Text(f"{part}: {found.pairs:,} pairs", "bold")
        yield lengths_table(found)
        yield Text()
        yield histogram(found)
        yield Text()
        yield truncation_table(found, report.max_length)
        bias = found.length_bias
        yield Text(
            f"the chosen answer is longer in {bias.chosen_longer:.0%}, the rejected one in {bias.rejected_longer:.0%} of the pairs, "
            f"by {bias.mean_difference:+.1f} tokens in the mean; correlation of length and preference {bias.correlation:+.3f}"
        )
        if bias.warning:
            yield Text(f"warning: {bias.warning}", "yellow")
        yield Text(f"{found.same_prompt:,} pairs have a prompt that came before")
        yield Text(
            f"{found.tokens:,} tokens with each prompt once, {found.tokens_of_two_passes:,} with a prompt for each answer"
        )
    yield Text()
    yield Text(
        f"{steps['pairs_per_step']} pairs a step, {steps['steps_per_epoch']:,} steps an epoch, {steps['steps']:,} steps in all"
    )


def lengths_table(found: Audit) -> Table:
    """Percentiles of the tokens of each part of a pair, as they are trained on."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("tokens, as trained on")
    names = list(next(iter(found.lengths.values())))
    for name in names:
        table.add_column(name, justify="right")
    for part, values in found.lengths.items():
        table.add_row(part, *(f"{values[name]:,.0f}" for name in names))
    return table


def histogram(found: Audit) -> Table:
    """Bars of the lengths of the sequences before they were cut."""
    edges, counts = found.histogram["edges"], found.histogram["counts"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tokens, before cutting", justify="right")
    table.add_column("")
    table.add_column("pairs", justify="right")
    most = max(counts)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        table.add_row(f"{low:,} to {high:,}", Text("█" * _bar(count, most), "cyan"), f"{count:,}")
    return table


def _bar(count: int, most: int) -> int:
    return max(round(BAR_WIDTH * count / most), 1 if count else 0)


def truncation_table(found: Audit, max_length: int) -> Table:
    """How many pairs lose tokens at which max_length."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("max_length", justify="right")
    table.add_column("pairs cut", justify="right")
    for length, share in found.cut.items():
        own = " ← this recipe" if length == max_length else ""
        table.add_row(Text(f"{length:,}", "bold" if own else ""), Text(f"{share:.1%}{own}", "bold" if own else ""))
    return table


def legend(loss_terms: dict[str, str], *, coloured: bool) -> Text:
    """What the colours mean; without colours, what the marks mean."""
    if not coloured:
        return Text("each token ends in ·; ⟦…⟧ is an end token")
    text = Text("colours: ")
    for index, (purpose, meaning) in enumerate(loss_terms.items()):
        text.append(", " if index else "").append(meaning, STYLES[purpose])
    return text


def pair_view(name: str, number: int, parts: dict[str, list[TokenSpan]], *, coloured: bool) -> RenderableType:
    """One pair, token by token."""
    lines: list[RenderableType] = [Text(mask_secrets(f"pair {number}, {name}"), "bold")]
    for part, spans in parts.items():
        lines.append(Text(f"{part}, {sum(len(piece.ids) for piece in spans):,} tokens", "bold"))
        lines.append(tokens_view(spans, coloured=coloured))
    return Group(*lines, Text())


def tokens_view(spans: list[TokenSpan], *, coloured: bool) -> Text:
    """The text of some tokens: neighbours in alternating shades, or with a mark behind each."""
    text = Text()
    for index, piece in enumerate(spans):
        if not coloured:
            text.append(f"⟦{piece.text}⟧" if piece.purpose == "end" else f"{piece.text}·")
            continue
        shade = " underline" if index % 2 and piece.purpose != "end" else ""
        text.append(piece.text, STYLES[piece.purpose] + shade)
    return text


def html_page(renderables: list[RenderableType], title: str) -> str:
    """The same as one HTML page that needs nothing else."""
    console = Console(record=True, width=140, file=StringIO(), force_terminal=True, color_system="truecolor")
    for renderable in renderables:
        console.print(renderable, soft_wrap=True)
    shown = escape(title).replace("{", "{{").replace("}", "}}")  # rich formats the template with str.format
    return console.export_html(inline_styles=True, code_format=HTML_TEMPLATE.replace("@title", shown))


HTML_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@title</title>
<style>
body {{ color: {foreground}; background: {background}; margin: 2rem; }}
pre {{ font: 14px/1.45 ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body><pre><code>{code}</code></pre></body>
</html>
"""
