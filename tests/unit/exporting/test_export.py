"""Exports: safetensors and bitsandbytes checkpoints of runs and models, their records, and refused requests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_export import llama_tokenizer, make_exportable_run, make_model
from support.tiny_run import EIGHT_BIT, make_run, saved_logits
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from orpo_cli.errors import MachineError, RunError, UsageError
from orpo_cli.exporting.export import export
from orpo_cli.exporting.export_record import ExportRecord
from orpo_cli.exporting.export_request import ExportRequest
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.planning.plan import ExportPlan
from orpo_cli.rundir import RunDir


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "mine")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def items(folder: Path) -> dict[str, object]:
    record = ExportRecord.read(folder)
    assert record is not None
    return {item["name"]: item["passed"] for item in record.checklist}


def test_safetensors_contain_every_weight_rounded_once_in_shards_of_the_requested_size(model, tmp_path):
    out = tmp_path / "out"
    (done,) = export(ExportRequest(model, out, dtype="bfloat16", max_shard_size="50KB"))
    files = list(out.glob("*.safetensors"))
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) < 55_000
    assert json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].keys() == weights(model).keys()
    expected = {name: tensor.bfloat16() for name, tensor in weights(model).items()}
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(out).items())
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(out).chat_template == llama_tokenizer().chat_template
    assert done.record.verified
    assert all(items(out).values())


def test_the_record_has_the_size_and_digest_of_every_file(model, tmp_path):
    (done,) = export(ExportRequest(model, tmp_path / "out"))
    found = {path.name for path in (tmp_path / "out").iterdir()} - {"export.json"}
    assert found == done.record.files.keys()
    for name, file in done.record.files.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert file == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_adapter_of_a_run_is_merged_first_and_the_export_has_the_logits_of_the_run(tmp_path):
    run = make_exportable_run(tmp_path / "run")
    (done,) = export(ExportRequest(run.root))
    assert done.output == run.export / "safetensors"
    assert torch.equal(saved_logits(done.output), saved_logits(run.merged))
    assert (saved_logits(done.output) - saved_logits(tmp_path / "run-base")).abs().max() > 0.1


def test_a_full_run_needs_no_merge(tmp_path, model):
    run = make_run(tmp_path / "full", model, full=True)
    (done,) = export(ExportRequest(run.root))
    assert not run.merged.exists()
    assert torch.equal(saved_logits(done.output), saved_logits(run.model))


def test_a_repeated_export_writes_nothing_and_a_different_one_needs_overwrite(model, tmp_path):
    out = tmp_path / "out"
    export(ExportRequest(model, out))
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (again,) = export(ExportRequest(model, out))
    assert again.already_exported
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UsageError, match="another export"):
        export(ExportRequest(model, out, dtype="float16"))
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (other,) = export(ExportRequest(model, out, dtype="float16", overwrite=True))
    assert not other.already_exported
    assert weights(out)["lm_head.weight"].dtype == torch.float16
    assert not export(ExportRequest(model, out, dtype="float16", overwrite=True))[0].already_exported


def test_an_export_of_a_changed_model_needs_overwrite(model, tmp_path):
    source = Path(shutil.copytree(model, tmp_path / "source"))
    export(ExportRequest(source, tmp_path / "out"))
    changed = weights(source)
    changed["lm_head.weight"][0] += 1
    save_file(changed, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="another export"):
        export(ExportRequest(source, tmp_path / "out"))


def test_an_export_with_a_missing_file_is_reported_as_incomplete(model, tmp_path):
    export(ExportRequest(model, tmp_path / "out"))
    (tmp_path / "out" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="incomplete") as caught:
        export(ExportRequest(model, tmp_path / "out"))
    assert "--overwrite" in str(caught.value.remedy)


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_checkpoints_load_with_from_pretrained_alone(model, tmp_path, bits):
    out = tmp_path / "out"
    (done,) = export(ExportRequest(model, out, formats=[f"bnb-{bits}bit"]))
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert getattr(loaded, f"is_loaded_in_{bits}bit")
    assert (
        sum(path.stat().st_size for path in out.glob("*.safetensors"))
        < 0.7 * (model / "model.safetensors").stat().st_size
    )
    assert done.record.checks["stored"]["max_absolute"] < 1e-3
    assert 0 < done.record.checks["logits"]["relative"] < (0.5 if bits == 4 else 0.1)
    assert all(items(out).values())


def test_end_tokens_of_the_chat_template_are_added_to_the_generation_config(model, tmp_path):
    source = Path(shutil.copytree(model, tmp_path / "source"))
    tokenizer = llama_tokenizer()
    settings = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": tokenizer.eos_token_id}))
    export(ExportRequest(source, tmp_path / "out"))
    eos_token_ids = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(eos_token_ids) == ["</s>", "<|im_end|>"]


def test_weights_too_large_for_float16_are_named_and_leave_no_export(model, tmp_path):
    source = Path(shutil.copytree(model, tmp_path / "source"))
    changed = weights(source)
    changed["model.norm.weight"][0] = 1e6
    save_file(changed, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"model\.norm\.weight"):
        export(ExportRequest(source, tmp_path / "out", dtype="float16"))
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_an_export_with_a_failed_check_is_kept_under_another_name(model, tmp_path, monkeypatch):
    from orpo_cli.exporting import write_format as module

    def with_a_weight_changed(source: Path, folder: Path, **options: object) -> None:
        write(source, folder, **options)
        changed = weights(folder)
        changed["lm_head.weight"] *= 1.5
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

    write = module.write_safetensors
    monkeypatch.setattr(module, "write_safetensors", with_a_weight_changed)
    for name in ("out.unverified", "out.unverified-2"):
        with pytest.raises(
            RunError, match=r"weights: lm_head\.weight differs; logits.*position \d+ of prompt \d+"
        ) as caught:
            export(ExportRequest(model, tmp_path / "out"))
        assert str(tmp_path / name) in caught.value.remedy
        record = ExportRecord.read(tmp_path / name)
        assert not record.verified
        assert record.is_complete(tmp_path / name)
        assert record.first_checklist == record.checklist  # written and compared twice
    assert {path.name for path in tmp_path.iterdir()} == {"out.unverified", "out.unverified-2"}
    (tmp_path / "out.unverified").rename(tmp_path / "out")
    with pytest.raises(UsageError, match="failed check"):
        export(ExportRequest(model, tmp_path / "out"))


def test_a_comparison_that_fails_once_is_repeated_and_reported(model, tmp_path, orpo_here, monkeypatch):
    from orpo_cli.exporting import reference_logits

    logits_of, calls = reference_logits.compute_logits, []

    def differing(*arguments):
        logits = logits_of(*arguments)
        if not calls:
            logits = [logits[0] + torch.linspace(0, 10, logits[0].shape[-1]), *logits[1:]]
        calls.append(None)
        return logits

    monkeypatch.setattr(reference_logits, "compute_logits", differing)
    done = orpo_here("export", model, "--format", "safetensors", "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 0
    assert "the first comparison failed" in done.stderr
    record = ExportRecord.read(tmp_path / "out")
    assert record.verified
    assert all(items(tmp_path / "out").values())
    (failed,) = [item["found"] for item in record.first_checklist if item["passed"] is False]
    assert "of prompt 1" in failed


def test_invalid_sources_and_options_without_effect_are_refused_before_the_export_starts(model, tmp_path):
    run = make_exportable_run(tmp_path / "run")
    quantized = Path(shutil.copytree(model, tmp_path / "quantized"))
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    )
    (tmp_path / "empty").mkdir()
    wrong = [
        (tmp_path / "absent", {}, "no such folder"),
        (tmp_path / "empty", {}, "neither a run nor a model"),
        (Path(shutil.copytree(run.adapter, tmp_path / "bare")), {}, "adapter without its base"),
        (quantized, {}, "is quantized"),
        (model, {"output": None}, "outside of a run"),
        (model, {"formats": ["onnx"]}, "not one of safetensors, gguf"),
        (model, {"formats": ["gguf"], "gguf_types": ["q9"]}, "not one of f32, f16"),
        (model, {"gguf_types": ["f16"]}, "has no effect without GGUF"),
        (model, {"formats": ["gguf"], "dtype": "float16"}, "has no effect for GGUF"),
        (model, {"dtype": "float8"}, "not one of auto, float32"),
        (model, {"max_shard_size": "big"}, "not a size"),
        (model, {"output": run.root}, "is no export"),
    ]
    for target, options, message in wrong:
        with pytest.raises(UsageError, match=message):
            export(ExportRequest(target, **{"output": tmp_path / "out", **options}))
    assert not (tmp_path / "out").exists()


def test_a_merge_of_another_adapter_is_not_exported(tmp_path):
    run = make_exportable_run(tmp_path / "run")
    export(ExportRequest(run.root))
    path = run.adapter / "adapter_model.safetensors"
    changed = {name: tensor * 2 for name, tensor in load_file(path).items()}
    save_file(changed, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="another adapter") as caught:
        export(ExportRequest(run.root))
    assert "orpo merge" in str(caught.value.remedy)


def test_an_export_of_another_merge_of_the_same_adapter_needs_overwrite(tmp_path):
    run = make_exportable_run(tmp_path / "run")
    export(ExportRequest(run.root))
    other = Path(shutil.copytree(run.adapter, tmp_path / "other"))
    merge(MergeRequest(run.root, adapters=[other], weights=[0.5, 0.5], overwrite=True))
    with pytest.raises(UsageError, match="another export"):
        export(ExportRequest(run.root))
    (done,) = export(ExportRequest(run.root, overwrite=True))
    assert json.loads(done.record.origin["adapters"])[1]["weight"] == 0.5


def test_the_same_weights_in_another_layout_are_not_exported(model, tmp_path):
    source = Path(shutil.copytree(model, tmp_path / "source"))
    save_file({"layers.0.attention.wq.weight": torch.ones(2, 2)}, source / "consolidated.safetensors")
    export(ExportRequest(source, tmp_path / "out"))
    assert weights(tmp_path / "out").keys() == weights(model).keys()
    for path in source.glob("model*.safetensors*"):
        path.unlink()
    with pytest.raises(UsageError, match="no weights in safetensors"):
        export(ExportRequest(source, tmp_path / "none"))


def test_a_full_disk_is_reported_before_the_merge(tmp_path, monkeypatch):
    run = make_exportable_run(tmp_path / "run")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(MachineError, match="GB of disk"):
        export(ExportRequest(run.root))
    assert not run.merged.exists()


def test_a_qlora_run_is_exported_from_its_dequantized_base(tmp_path):
    run = make_exportable_run(tmp_path / "run", quantization=EIGHT_BIT)
    (done,) = export(ExportRequest(run.root))
    assert "quantization_config" not in json.loads((done.output / "config.json").read_text())


def test_each_format_of_a_recipe_gets_its_folder(tmp_path):

    settings = ExportPlan(formats=["safetensors", "bnb-8bit"], dtype="float16")
    run = make_exportable_run(tmp_path / "run", export=settings)
    assert [done.output for done in export(ExportRequest(run.root))] == [
        run.export / "safetensors",
        run.export / "bnb-8bit",
    ]
    assert AutoModelForCausalLM.from_pretrained(run.export / "safetensors").dtype == torch.float16
    assert RunDir(run.root).read_plan().export == settings


def test_a_bitsandbytes_export_has_the_logits_of_quantizing_on_load(model, tmp_path):
    """NF4 with double quantization."""
    export(ExportRequest(model, tmp_path / "out", formats=["bnb-4bit"]))
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(model, quantization_config=config, dtype=torch.float32)(
            ids
        ).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
