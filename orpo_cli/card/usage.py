"""Usage section of a model card: code for transformers, peft, vLLM and llama.cpp."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from orpo_cli.card.markdown import code_block, code_span, public_path
from orpo_cli.card.run_contents import RunPart, part_folder, path_prefix
from orpo_cli.model.model_source import PACKAGE_PREFIX
from orpo_cli.planning.plan import Plan
from orpo_cli.rundir import RunDir

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that --max-lora-rank accepts
_QUESTION = "Why is the sky blue?"


def usage_section(rundir: RunDir, plan: Plan, parts: Sequence[RunPart], repo_id: str | None) -> str:
    """Code for each library that can load one of ``parts``."""
    full_model = next((part for part in parts if part in ("merged", "model")), None)
    blocks = ["## Use"]
    if full_model is not None:
        name = repo_id or part_folder(rundir, full_model).name
        blocks += [_transformers(rundir, full_model, name), _vllm(name)]
    if "adapter" in parts:
        name = repo_id or rundir.adapter.name
        subfolder = path_prefix("adapter", parts).rstrip("/") if repo_id else ""
        blocks += [_peft(rundir, plan, name, subfolder)]
        if full_model is None:
            blocks += [_vllm_adapter(plan, name)]
    blocks.append(_llama_cpp(rundir, repo_id) if "gguf" in parts else _gguf_hint(full_model is None))
    return "\n\n".join(blocks)


def _transformers(rundir: RunDir, part: RunPart, name: str) -> str:
    load = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name, ensure_ascii=False)}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name, ensure_ascii=False)})"""
    return f"With transformers:\n\n{_python(load, _has_chat_template(rundir, part))}"


def _peft(rundir: RunDir, plan: Plan, name: str, subfolder: str) -> str:
    argument = f', subfolder="{subfolder}"' if subfolder else ""
    base = _base_to_load(plan)
    arguments = json.dumps(base, ensure_ascii=False)
    if base.endswith(".gguf"):
        folder, _, file = base.rpartition("/")
        arguments = f"{json.dumps(folder)}, gguf_file={json.dumps(file, ensure_ascii=False)}"
    load = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({arguments}, dtype="auto")
model = PeftModel.from_pretrained(model, {json.dumps(name, ensure_ascii=False)}{argument})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name, ensure_ascii=False)}{argument})"""
    code = _python(load, _has_chat_template(rundir, "adapter"))
    notes = []
    if _is_on_this_machine(plan):
        notes.append("the base is not on the hub: replace the path by that of your copy of the base")
    if base.endswith(".gguf"):
        notes.append("transformers reads a .gguf file with the package gguf: `pip install gguf`")
    remarks = f" ({'; '.join(notes)})" if notes else ""
    return f"The adapter on its base, with peft{remarks}:\n\n{code}"


def _base_to_load(plan: Plan) -> str:
    """The base in the code of a card. A path on this machine, or in a Python package, is replaced by one to fill in."""
    base = plan.model.model_name_or_path
    return f"path/to/{PurePath(base).name}" if _is_on_this_machine(plan) else base


def _is_on_this_machine(plan: Plan) -> bool:
    base = plan.model.model_name_or_path
    return public_path(base) != base or base.startswith(PACKAGE_PREFIX)


def _python(load: str, chat: bool) -> str:
    if chat:
        ask = f"""messages = [{{"role": "user", "content": "{_QUESTION}"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""
    else:
        ask = 'inputs = tokenizer("The sky is blue because", return_tensors="pt")'
    code = f"""{load}

{ask}
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
    return code_block(code, "python")


def _has_chat_template(rundir: RunDir, part: RunPart) -> bool:
    return (part_folder(rundir, part) / "chat_template.jinja").is_file()


def _vllm(name: str) -> str:
    return f"With vLLM:\n\n{code_block(f'vllm serve {shlex.quote(name)}', 'sh')}"


def _vllm_adapter(plan: Plan, name: str) -> str:
    lora = plan.lora
    base = _base_to_load(plan)
    unsupported = lora is None or lora.use_dora or lora.modules_to_save or plan.model.add_special_tokens
    if lora is None or unsupported or base.endswith(".gguf"):
        return "vLLM does not support this kind of adapter or base: merge it into its base first (`orpo merge`)."
    rank = next((each for each in VLLM_RANKS if each >= lora.r), VLLM_RANKS[-1])
    served = name.rpartition("/")[2]
    module = shlex.quote(f"{served}={name}")
    command = f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {rank} --lora-modules {module}"
    return f"With vLLM:\n\n{code_block(command, 'sh')}"


def _llama_cpp(rundir: RunDir, repo_id: str | None) -> str:
    folder = part_folder(rundir, "gguf")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.gguf"))
    if not files:
        return _gguf_hint(adapter=False)
    first = shlex.quote(files[0].as_posix())
    command = f"llama-cli --hf-repo {repo_id} --hf-file {first}" if repo_id else f"llama-cli -m {first}"
    listed = "" if len(files) == 1 else f" The files are {', '.join(code_span(each.as_posix()) for each in files)}."
    block = code_block(f'{command} -p "{_QUESTION}"', "sh")
    return f"With llama.cpp:{listed}\n\n{block}"


def _gguf_hint(adapter: bool) -> str:
    source = "from the merged model (`orpo merge`)" if adapter else "from it"
    return (
        f"For llama.cpp and Ollama, `orpo export` or llama.cpp's `convert_hf_to_gguf.py` creates a GGUF file {source}."
    )
