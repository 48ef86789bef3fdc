"""`lora`: the adapter, with the names of peft.LoraConfig and, for LoRA+, of peft.optimizers.

Other arguments of LoraConfig are in legacy/unsupported_peft_args.py, with the reason.
"""

from typing import Annotated, Literal

from pydantic import Field

from orpo_cli.recipe.schema.section import Section

Index = Annotated[int, Field(ge=0)]


class LoftqConfig(Section):
    """peft.LoftQConfig."""

    loftq_bits: Literal[2, 4, 8] = Field(4, description="Bits of the quantized base weights.")
    loftq_iter: int = Field(1, ge=1, description="Iterations of quantizing the base and fitting the adapter.")


class VeloraConfig(Section):
    """peft.tuners.lora.config.VeloraConfig: compress the activations that are stored for the backward pass."""

    num_groups: int = Field(64, ge=1, description="Groups into which the features of a token are split.")
    scale: float = Field(1.0, gt=0, description="Scale of the reconstructed activations.")
    init_type: Literal["batch_average", "batch_average_once", "random"] = Field(
        "batch_average", description="Initialization of the projection."
    )


class BdLoraConfig(Section):
    """peft.tuners.lora.config.BdLoraConfig: block-diagonal matrices, which need no communication when several GPUs serve them."""

    target_modules_bd_a: list[str] | None = Field(
        None, description="Modules whose A is block-diagonal.", examples=[["o_proj", "down_proj"]]
    )
    target_modules_bd_b: list[str] | None = Field(
        None, description="Modules whose B is block-diagonal.", examples=[["q_proj", "k_proj", "v_proj", "up_proj"]]
    )
    nblocks: int = Field(1, ge=1, description="Blocks of each matrix.")
    match_strict: bool = Field(True, description="Refuse target modules that are in neither list.")


class LoraSection(Section):
    """peft.LoraConfig; without this section, all weights are trained."""

    r: int = Field(16, ge=1, description="Rank of the update.")
    lora_alpha: int = Field(32, ge=1, description="Scale: updates are multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapter input.")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="Module names or a regular expression; `all-linear` for all linear layers except the head.",
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="Module names or a regular expression to exclude.", examples=[["lm_head"], r".*\.mlp\..*"]
    )
    target_parameters: list[str] | None = Field(
        None,
        description="Parameters outside of linear layers, such as the experts of a mixture-of-experts model, by the end of their names.",
        examples=[["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]],
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (rank-stabilized LoRA).")
    use_dora: bool = Field(False, description="Train magnitude and direction separately (DoRA).")
    lora_bias: bool = Field(False, description="Add a bias to B.")
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa", "mica", "loftq"] = Field(
        True, description="Initialization of the adapter."
    )
    loftq_config: LoftqConfig | None = Field(None, examples=[{"loftq_bits": 4, "loftq_iter": 1}])
    loraplus_lr_ratio: float | None = Field(
        None, ge=1, description="LoRA+: ratio of the learning rates of B and A.", examples=[16.0]
    )
    loraplus_lr_embedding: float | None = Field(
        None,
        gt=0,
        description="LoRA+: learning rate of adapters on embeddings; default in peft: 1e-6.",
        examples=[1e-6],
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Ranks of modules whose rank differs from r.", examples=[{"q_proj": 32}]
    )
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Alphas of modules whose alpha differs from lora_alpha.", examples=[{"q_proj": 64}]
    )
    layers_to_transform: int | list[int] | None = Field(
        None, description="Indices of the layers that get an adapter.", examples=[[12, 13, 14, 15]]
    )
    layers_pattern: str | list[str] | None = Field(
        None, description="Name of the layer list in the model.", examples=["layers"]
    )
    layer_replication: list[Annotated[list[Index], Field(min_length=2, max_length=2)]] | None = Field(
        None,
        description="Layer ranges (end excluded) that are repeated before the adapter is added; the result cannot be merged.",
        examples=[[[0, 16], [8, 24]]],
    )
    modules_to_save: list[str] | None = Field(
        None, description="Modules that are trained completely and saved with the adapter.", examples=[["lm_head"]]
    )
    trainable_token_indices: list[Index] | dict[str, list[Index]] | None = Field(
        None,
        description="Ids of tokens whose embeddings are trained, for all modules or by module.",
        examples=[[128006, 128007], {"embed_tokens": [128006], "lm_head": [128006]}],
    )
    ensure_weight_tying: bool = Field(
        False,
        description="Keep embeddings and head tied if modules_to_save or trainable_token_indices has one of them.",
    )
    fan_in_fan_out: bool = Field(
        False, description="The layers have weights of shape (in, out); peft detects those of GPT-2."
    )
    use_bdlora: BdLoraConfig | None = Field(
        None, examples=[{"target_modules_bd_b": ["q_proj", "v_proj"], "nblocks": 2, "match_strict": False}]
    )
    velora_config: VeloraConfig | None = Field(None, examples=[{"num_groups": 64}])
