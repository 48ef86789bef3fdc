"""View of prepared data: tables, a histogram of lengths, and pairs with each token in the colour of its loss terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from orpo_cli.control_characters import escape_controls, one_line
from orpo_cli.data.audit import Audit
from orpo_cli.data.report import DataReport
from orpo_cli.data.token_spans import TokenSpan
from orpo_cli.errors import explain_hint

BAR_WIDTH = 40  # of the longest bar, in characters
MIN_PAIRS_OF_HISTOGRAM = 10
BINS_IN_BAR = 2  # bins of the histogram in one bar: the summary is to fit on two screens
TABLE_STYLE: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold"}
LOSS_TERMS = {  # description and style by purpose of a token
    "prompt": ("masked, no loss", "dim"),
    "prompt_nll": ("NLL", "blue"),
    "chosen": ("NLL and odds ratio", "green"),
    "rejected": ("odds ratio", "red"),
    "end": ("end-of-turn token, with the loss of its completion", "bold black on yellow"),
}


def summary_view(report: DataReport, audits: dict[str, Audit], steps: dict[str, Any]) -> Iterator[RenderableType]:
    """The statistics of the training and held-out pairs; ``steps`` has the numbers of steps."""
    for line in report.lines():
        yield Text(one_line(line), "yellow" if line.startswith("  warning: ") else "")
    for part, audit in audits.items():
        yield Text()
        yield Text(f"{part}: {audit.pairs:,} pairs", "bold")
        yield lengths_table(audit)
        yield Text()
        if audit.pairs >= MIN_PAIRS_OF_HISTOGRAM:
            yield histogram(audit)
            yield Text()
        yield truncation_table(audit, report.max_length)
        bias = audit.length_bias
        yield Text(
            f"the chosen completion is longer in {bias.chosen_longer:.0%}, the rejected one in {bias.rejected_longer:.0%} of the pairs; "
            f"chosen minus rejected: {bias.mean_difference:+.1f} tokens on average; correlation of length and preference {bias.correlation:+.3f}"
        )
        yield Text(f"{audit.same_prompt:,} pairs repeat a prompt of an earlier pair")
        yield Text(
            f"{audit.tokens:,} tokens with each prompt once, {audit.tokens_of_two_passes:,} with the prompt repeated for each completion"
        )
        for problem in audit.problems(part):
            yield Text(problem.text(), "yellow")
            yield Text(f"  → {explain_hint([problem])}")
    yield Text()
    read, kept = (sum(getattr(source, name) for source in report.sources) for name in ("rows_read", "kept"))
    dropped = Counter[str]()
    for source in report.sources:
        dropped.update(source.dropped)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    cut = {part: round(audit.cut.get(report.max_length, 0.0) * audit.pairs) for part, audit in audits.items()}
    truncated = ", ".join(f"{count:,} {part}" for part, count in cut.items() if count)  # a pair counts once
    yield Text(
        f"{read:,} rows read, {kept:,} pairs kept; dropped: {reasons or 'none'}; truncated pairs: {truncated or 'none'}"
    )
    yield Text(
        f"{steps['pairs_per_step']} pairs per step, {_steps(steps['steps_per_epoch'])} per epoch, {_steps(steps['steps'])} in total"
    )


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def lengths_table(audit: Audit) -> Table:
    """Percentiles of the number of tokens of each part of a pair, after truncation."""
    percentiles = [Column(name, justify="right") for name in next(iter(audit.lengths.values()))]
    table = Table("tokens, as trained", *percentiles, **TABLE_STYLE)
    for part, values in audit.lengths.items():
        table.add_row(part, *(f"{value:,.0f}" for value in values.values()))
    return table


def histogram(audit: Audit) -> Table:
    """Histogram of the lengths of the sequences before truncation."""
    edges = [*audit.histogram["edges"][:-1:BINS_IN_BAR], audit.histogram["edges"][-1]]
    bins = audit.histogram["counts"]
    counts = [sum(bins[start : start + BINS_IN_BAR]) for start in range(0, len(bins), BINS_IN_BAR)]
    columns = (Column("tokens, before truncation", justify="right"), "", Column("pairs", justify="right"))
    table = Table(*columns, **TABLE_STYLE)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * max(round(BAR_WIDTH * count / max(counts)), min(count, 1))
        lengths = f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        table.add_row(lengths, Text(bar, "cyan"), f"{count:,}")
    return table


def truncation_table(audit: Audit, max_length: int) -> Table:
    """The fraction of pairs that would be truncated, by max_length, up to the recipe's and to the first that truncates none."""
    columns = (Column("max_length", justify="right"), Column("pairs truncated", justify="right"))
    table = Table(*columns, **TABLE_STYLE)
    for length, fraction in audit.cut.items():
        is_this_recipe = length == max_length
        mark = " ← this recipe" if is_this_recipe else ""
        table.add_row(f"{length:,}", f"{fraction:.1%}{mark}", style="bold" if is_this_recipe else None)
        if length >= max_length and not fraction:
            break
    return table


def legend(*, loss_on_prompt: bool, coloured: bool) -> Text:
    """The legend of the colours, or of the marks without colours."""
    if not coloured:
        return Text("each token ends with ·; ⟦…⟧ is an end-of-turn token")
    unused = "prompt" if loss_on_prompt else "prompt_nll"
    terms = [Text(*term) for purpose, term in LOSS_TERMS.items() if purpose != unused]
    return Text("colours: ") + Text(", ").join(terms)


def pair_view(pair: dict[str, Any], *, coloured: bool) -> RenderableType:
    """One pair with all of its tokens: its number, row and part of the data, and the spans of prompt and completions."""
    held_out = ", held out" if pair["part"] == "eval" else ""
    lines: list[RenderableType] = [Text(one_line(f"pair {pair['pair']}, {pair['row']}{held_out}"), "bold")]
    for part in ("prompt", "chosen", "rejected"):
        spans = pair[part]
        terms = dict.fromkeys(LOSS_TERMS[span.purpose][0] for span in spans if span.purpose != "end")
        tokens = sum(len(span.ids) for span in spans)
        lines.append(
            Text(f"{part}, {tokens:,} tokens ({'; '.join(terms)})" if terms else f"{part}, {tokens:,} tokens", "bold")
        )
        lines.append(tokens_view(spans, coloured=coloured))
    return Group(*lines, Text())


def tokens_view(spans: list[TokenSpan], *, coloured: bool) -> Text:
    """The text of tokens: every second one underlined or, without colours, each with a mark after it."""
    text = Text()
    for index, span in enumerate(spans):
        shown = escape_controls(span.text)
        if not coloured:
            text.append(f"⟦{shown}⟧" if span.purpose == "end" else f"{shown}·")
            continue
        underline = " underline" if index % 2 and span.purpose != "end" else ""
        text.append(shown, LOSS_TERMS[span.purpose][1] + underline)
    return text
