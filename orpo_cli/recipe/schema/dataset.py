"""`dataset`: where the preference pairs come from and how long they may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from orpo_cli.recipe.schema.section import Section


class Source(Section):
    """One source of preference pairs."""

    path: str = Field(
        min_length=1,
        description="Hub id, file, folder or URL of data files.",
        examples=["pairs.jsonl", "mlabonne/orpo-dpo-mix-40k"],
    )
    name: str | None = Field(None, description="Configuration (subset) of a hub dataset.", examples=["default"])
    revision: str | None = Field(None, description="Branch, tag or commit of a hub dataset.", examples=["main"])
    split: str = Field("train", min_length=1, description="Split, slices allowed: train[:1000].")
    format: str = Field("auto", description="`auto` to recognise the format from the rows, or a format's name.")
    columns: dict[str, str] = Field(
        {},
        description="Our name: the column's name in the data, or a field within one: answers.0.text.",
        examples=[{"chosen": "good", "rejected": "bad"}, {"chosen": "answers.0.text"}],
    )
    labels: dict[str, Literal["first", "second", "tie"]] = Field(
        {},
        description="What the labels of judged pairs mean, where they do not say it themselves: {A>B: first}.",
        examples=[{"A>B": "first", "B>A": "second"}],
    )
    min_score_margin: float | None = Field(
        None,
        gt=0,
        description="Leave out pairs whose scores are closer than this, or that have none.",
        examples=[1.0],
    )
    weight: float = Field(
        1.0,
        gt=0,
        description="How often its pairs are used: 0.5 takes half of them, drawn with shuffle_seed; 2 each twice.",
    )
    max_samples: int | None = Field(
        None,
        ge=1,
        description="Use at most this many rows, drawn with shuffle_seed; of a streamed source the first.",
        examples=[1000],
    )
    streaming: bool = Field(
        False, description="Read from the start until training.max_steps has its pairs, and download no more."
    )


class EvalSplit(Section):
    """Held-out pairs cut from the training pairs."""

    test_size: float | int = Field(
        gt=0, description="Share (below 1) or number of pairs to hold out.", examples=[0.05, 500]
    )


class PairRules(Section):
    """Which rules leave pairs out. What cannot be trained on at all (no prompt, other histories) has no switch."""

    empty_chosen: bool = Field(True, description="The chosen answer holds no text.")
    empty_rejected: bool = Field(True, description="The rejected answer holds no text.")
    identical: bool = Field(True, description="The two answers are the same.")
    duplicate: bool = Field(True, description="The same pair, token for token, came before.")
    duplicate_prompt: bool = Field(
        False, description="A pair with the same prompt came before; case and white space do not count."
    )
    leaked: bool = Field(False, description="The prompt of a training pair is held out for evaluation, too.")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | BaseModel) else value


def _split_or_sources(value: Any) -> str:
    if isinstance(value, EvalSplit) or (isinstance(value, dict) and value.get("test_size") is not None):
        return "[split]"  # no key of a recipe is called so
    return "[sources]"


_OneOrMore = Source | Annotated[list[Source], Field(min_length=1)]
Sources = Annotated[list[Source], BeforeValidator(_as_list, json_schema_input_type=_OneOrMore), Field(min_length=1)]


class DatasetSection(Section):
    """Where the preference pairs come from and how long they may be."""

    train: Sources = Field(
        description="One source or a list of them.",
        examples=[{"path": "pairs.jsonl"}, [{"path": "a.jsonl"}, {"path": "b.jsonl"}]],
    )
    eval: (
        Annotated[
            Annotated[EvalSplit, Tag("[split]")] | Annotated[Sources, Tag("[sources]")],
            Discriminator(_split_or_sources),
        ]
        | None
    ) = Field(
        None,
        description="A source, a list of them, or {test_size: …} to cut from train.",
        examples=[{"test_size": 0.05}, {"path": "heldout.jsonl"}],
    )
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="What the prompt of a pair longer than training.max_length is cut to, in tokens; default: half of it.",
        examples=[512],
    )
    truncation_mode: Literal["keep_end", "keep_start", "drop"] = Field(
        "keep_end",
        description="What becomes of a prompt that has to be cut: keep its end, its start, or drop the pair.",
    )
    rules: PairRules = Field(PairRules(), description="Which rules leave pairs out, by name.")
    drop_truncated: bool = Field(
        False, description="Leave out pairs with an answer that max_length would cut; else it loses its end token."
    )
    shuffle_seed: int = Field(42, ge=0, description="Seed of every draw: max_samples, weight, test_size.")
