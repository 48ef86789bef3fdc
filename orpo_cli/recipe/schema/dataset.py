"""`dataset`: sources of preference pairs, the held-out split, filters and prompt lengths."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from orpo_cli.recipe.schema.section import Section


class Source(Section):
    """One source of preference pairs."""

    path: str = Field(
        min_length=1,
        description="Hub id, file, directory or URL of data files.",
        examples=["pairs.jsonl", "mlabonne/orpo-dpo-mix-40k"],
    )
    name: str | None = Field(
        None,
        description="Configuration (subset) of a hub dataset, or of a folder with a dataset card.",
        examples=["default"],
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub dataset.", examples=["main"])
    split: str = Field("train", min_length=1, description="Split; slices such as train[:1000] are allowed.")
    format: str = Field(
        "auto",
        description="`auto` to detect the format from the rows, or the name of a format; `text` trains texts without the chat template.",
    )
    columns: dict[str, str] = Field(
        {},
        description="Expected column name: name in the data, or the path of a nested field such as answers.0.text. "
        "`weight` names the weight of a pair in the loss.",
        examples=[
            {"chosen": "good", "rejected": "bad"},
            {"chosen": "answers.0.text"},
            {"weight": "confidence"},
        ],
    )
    labels: dict[str, Literal["first", "second", "tie"]] = Field(
        {},
        description="Meaning of the labels of judged pairs, if it cannot be detected: {A>B: first}.",
        examples=[{"A>B": "first", "B>A": "second"}],
    )
    min_score_margin: float | None = Field(
        None,
        gt=0,
        description="Drop pairs whose chosen score is less than this above the rejected one, or that have no scores. The scores are columns such "
        "as `score_chosen` and `score_rejected`, or `chosen_rating` and `rejected_rating`; `columns` maps others.",
        examples=[1.0],
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="How often the pairs are used: 0.5 uses a random half (shuffle_seed), 2 uses each pair twice.",
    )
    weight_by: Literal["score_margin"] | None = Field(
        None,
        description="Weight of a pair in the loss, where no column has it: `score_margin` is the score of chosen minus that of "
        "rejected.",
        examples=["score_margin"],
    )
    max_samples: int | None = Field(
        None,
        ge=1,
        description="Maximum number of rows, sampled with shuffle_seed (consecutive ones, where several rows form a pair); of a streamed source, the first rows.",
        examples=[1000],
    )
    streaming: bool = Field(
        False, description="Read from the start and stop when there are enough pairs for training.max_steps."
    )


class EvalSplit(Section):
    """Held-out pairs that are split from the training pairs."""

    test_size: float | int = Field(
        gt=0, description="Fraction (below 1) or number of pairs to hold out.", examples=[0.05, 500]
    )


class PairRules(Section):
    """Filters that drop pairs. Pairs that cannot be trained on (no prompt, different histories) are always dropped."""

    empty_chosen: bool = Field(True, description="The chosen completion is empty.")
    empty_rejected: bool = Field(True, description="The rejected completion is empty.")
    identical: bool = Field(True, description="Both completions are equal.")
    duplicate: bool = Field(True, description="An earlier pair has the same tokens.")
    duplicate_prompt: bool = Field(
        False, description="A pair of an earlier row has the same prompt, ignoring case and white space."
    )
    leaked: bool = Field(False, description="The prompt of a training pair is also held out for evaluation.")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | BaseModel) else value


def _split_or_sources(value: Any) -> str:
    if isinstance(value, EvalSplit) or (isinstance(value, dict) and value.get("test_size") is not None):
        return "[split]"  # brackets, so that it is no key of a recipe
    return "[sources]"


_OneOrMore = Source | Annotated[list[Source], Field(min_length=1)]
Sources = Annotated[list[Source], BeforeValidator(_as_list, json_schema_input_type=_OneOrMore), Field(min_length=1)]


class DatasetSection(Section):
    """Sources of preference pairs, the held-out split, filters and prompt lengths."""

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
        description="Held-out pairs: a source, a list of sources, or {test_size: …} to split them from train.",
        examples=[{"test_size": 0.05}, {"path": "heldout.jsonl"}],
    )
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Length in tokens to which the prompt of a pair longer than training.max_length is truncated; default: half of it.",
        examples=[512],
    )
    truncation_mode: Literal["keep_end", "keep_start", "drop"] = Field(
        "keep_end",
        description="How a prompt is truncated: keep its end, keep its start, or drop the pair.",
    )
    turns: Literal["last", "all"] = Field(
        "last",
        description="Turns of a conversation that become pairs, where several have a chosen and a rejected answer: the last, or all.",
    )
    rejected: Literal["first", "all", "worst", "random"] = Field(
        "first",
        description="Rejected answers that become pairs, where a prompt has several: the first (of scored completions, which have no "
        "order: one drawn with shuffle_seed), all (a pair each), the one with the lowest score, or one drawn with shuffle_seed.",
    )
    rules: PairRules = Field(PairRules(), description="Filters that drop pairs, by name.")
    drop_truncated: bool = Field(
        False,
        description="Drop pairs whose completion max_length would truncate; a truncated completion has no end-of-turn token.",
    )
    shuffle_seed: int = Field(
        42, ge=0, description="Random seed of max_samples, weight, test_size and of the drawn rejected answers."
    )
