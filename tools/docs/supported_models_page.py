"""Supported models page of docs/reference: architectures, packed steps, merge, GGUF, and how each was tried."""

from __future__ import annotations

from typing import NamedTuple

from tools.docs.markdown_tables import markdown_table

INTRODUCTION = """\
`orpo` trains every model that transformers loads as a causal language model, from the hub or from a directory. Architectures differ in the step: the
[packed step](../concepts.md#how-a-step-is-computed) is faster and needs less memory, and TRL's implementation computes the step of the others. For each
run, `orpo plan` says which one is used and why. A model that is not in the table uses the packed step if its code and its
configuration allow it: before training, the first pairs are computed with both implementations and compared.

The column "tried" says what this project has done with the architecture:

| word | meaning |
| --- | --- |
| real | a published model, trained, evaluated, merged, exported and compared on a CPU |
| GPU | the architecture at full size with random weights, trained on one GPU and compared with TRL |
| pipeline | a shipped recipe with a tiny random model: training, evaluation, and the verified merge of an adapter |
| merge | merged weights of a tiny random model, equal to those of PEFT byte by byte |
| step | loss, metrics and gradients of a tiny random model in float64, with LoRA and with all weights, equal to those of TRL |
| refused | the packed step refuses it with this reason; TRL's implementation computes the step |

The column "GGUF" is the answer of llama.cpp's converter that `orpo export --format gguf` installs. `orpo export` asks it again before it merges, and refuses an
architecture that it does not know. `orpo merge` merges the architectures one tensor at a time where it can, and otherwise in memory with
PEFT; [Merge](../how-to/merge.md#memory-and-disk) says when."""


class Row(NamedTuple):
    """A line of the table. ``tests``: names in tests/support/architectures.py; ``why_not``: why its step is TRL's."""

    architecture: str
    examples: str
    tests: tuple[str, ...]
    gguf: bool
    tried: str
    why_not: str = ""


ROWS = (
    Row("`llama`", "SmolLM2, Llama 2, 3, 3.1, 3.2, TinyLlama, Yi", ("llama", "llama-tied-bias"), True, "real, GPU, pipeline, merge, step"),
    Row("`mistral`", "Mistral 7B, with and without a sliding window", ("mistral-window",), True, "pipeline, step"),
    Row("`mixtral`", "Mixtral 8x7B, 8x22B", ("mixtral",), True, "pipeline, merge, step"),
    Row("`qwen2`", "Qwen2, Qwen2.5", ("qwen2", "qwen2-window"), True, "merge, step"),
    Row("`qwen3`", "Qwen3 dense models", ("qwen3",), True, "pipeline, step"),
    Row("`qwen3_moe`", "Qwen3 30B-A3B", ("qwen3-moe",), True, "step"),
    Row("`gemma2`", "Gemma 2 (the metrics have no `logits`)", ("gemma2",), True, "step"),
    Row("`gemma3_text`", "Gemma 3 1B; the text part of the larger ones", ("gemma3",), True, "pipeline, step"),
    Row("`phi3`", "Phi-3, Phi-4, Phi-4-mini", ("phi3",), True, "pipeline, step"),
    Row("`phi`", "Phi-2", ("phi",), True, "pipeline, step"),
    Row("`smollm3`", "SmolLM3", ("smollm3",), True, "pipeline, step"),
    Row("`opt`", "OPT", ("opt",), False, "pipeline, step"),
    Row("`gpt2`", "GPT-2", ("gpt2",), True, "step"),
    Row("`gpt_neox`", "Pythia, GPT-NeoX", ("gpt-neox",), True, "step"),
    Row("`olmo2`", "OLMo 2", ("olmo2",), True, "step"),
    Row("`granite`", "Granite 3", ("granite",), True, "step"),
    Row("`cohere`", "Command R", ("cohere",), True, "step"),
    Row("`cohere2`", "Command R7B", ("cohere2",), True, "step"),
    Row("`starcoder2`", "StarCoder2", ("starcoder2",), True, "step"),
    Row("`stablelm`", "StableLM 2", ("stablelm",), True, "step"),
    Row("`glm4`", "GLM-4", ("glm4",), False, "step"),
    Row("`gpt_oss`", "gpt-oss", ("gpt-oss",), True, "step"),
    Row("`deepseek_v3`", "DeepSeek-V3", ("deepseek-v3",), False, "step"),
    Row("`llama4_text`", "the text part of Llama 4", ("llama4",), True, "step"),
    Row("`mamba`", "Mamba", ("mamba",), True, "refused", "a state is passed from token to token"),
    Row("`bloom`", "BLOOM", ("bloom",), True, "refused", "attention is biased by distance (ALiBi)"),
    Row("`mpt`", "MPT", ("mpt",), True, "refused", "attention is biased by distance (ALiBi)"),
    Row("`falcon`", "Falcon 7B", ("falcon",), True, "refused", "the code does not use the attention interface of transformers"),
    Row("`falcon` with ALiBi", "Falcon RW", ("falcon-alibi",), True, "refused", "attention is biased by distance (ALiBi)"),
    Row("encoder-decoder models", "T5; they cannot be trained: `orpo` loads causal language models", ("t5",), False, "refused", "an encoder-decoder model"),
    Row("any, with a router loss", "`output_router_logits: true`", ("mixtral-router-loss",), True, "refused", "TRL adds the auxiliary loss of the router"),
    Row("any, with active dropout in attention", "`attention_dropout` above 0", ("llama-attention-dropout",), True, "refused", "the masks would be drawn in another order"),
    Row("any, with RoPE that depends on the length", "`dynamic` and `longrope`, beyond the length of pretraining", ("llama-dynamic-rope",), True, "refused", "rotary positions change with the longest sequence of a batch"),
    Row("code from the hub", "`model.trust_remote_code: true`", (), False, "refused", "the code is unknown"),
)  # fmt: skip


def page(generated: str) -> str:
    """Text of the page."""
    head = ("architecture", "models", "packed step", "GGUF", "tried")
    rows = [
        (
            row.architecture,
            row.examples,
            "yes" if not row.why_not else f"no: {row.why_not}",
            "" if row.why_not and not row.architecture.endswith("`") else "yes" if row.gguf else "no",
            row.tried,
        )
        for row in ROWS
    ]
    parts = [
        f"# Supported models\n\n{generated}".strip(),
        INTRODUCTION,
        "## Architectures",
        markdown_table(head, rows),
        ADAPTERS,
    ]
    return "\n\n".join(parts) + "\n"


ADAPTERS = """\
## Methods

| method | packed step | merge |
| --- | --- | --- |
| LoRA, rsLoRA, DoRA, PiSSA, OLoRA | yes | yes |
| QLoRA (4-bit and 8-bit base model) | yes | yes, [in two ways](../how-to/merge.md#a-quantized-base-model) |
| other kinds of PEFT, such as LoHa, LoKr, IA³ | yes | those whose layers can be merged: [Supported adapters](../how-to/merge.md#supported-adapters) |
| all weights | yes | not needed |

Models for images or audio: only their text part is trained, and rows with images are dropped. At full size, this project has trained only
SmolLM2-135M. The [memory table](memory-table.md) shows which GPU a model needs."""
