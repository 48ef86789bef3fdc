"""`lora`: the adapter, by the names of peft.LoraConfig."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orpo_cli.recipe.section import Section


class LoraSection(Section):
    """peft.LoraConfig; leave the section out to train every weight."""

    r: int = Field(16, ge=1, description="Rank of the update.")
    lora_alpha: int = Field(32, ge=1, description="Scale: updates are multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="Module names or a regular expression; `all-linear` for every linear layer but the head.",
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="Module names or a regular expression to leave out.", examples=[["lm_head"], r".*\.mlp\..*"]
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(False, description="Train magnitude and direction apart (DoRA).")
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa"] = Field(
        True, description="How the adapter starts."
    )
    rank_pattern: dict[str, int] = Field(
        {}, description="Rank of modules that differ from r.", examples=[{"q_proj": 32}]
    )
    alpha_pattern: dict[str, int] = Field(
        {}, description="Alpha of modules that differ from lora_alpha.", examples=[{"q_proj": 64}]
    )
    layers_to_transform: int | list[int] | None = Field(
        None, description="Indexes of the layers that get an adapter.", examples=[[12, 13, 14, 15]]
    )
    layers_pattern: str | list[str] | None = Field(
        None, description="Name of the layer list in the model.", examples=["layers"]
    )
    modules_to_save: list[str] | None = Field(
        None, description="Modules trained in full and saved with the adapter.", examples=[["lm_head"]]
    )
