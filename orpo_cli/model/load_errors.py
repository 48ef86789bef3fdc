"""Errors of transformers' loading as OrpoErrors, each with its remedy."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import HubError, HubRefused, MachineError, OrpoError, UsageError, hub_error_type
from orpo_cli.hub_status import lost_connection_behind, response_behind
from orpo_cli.model.model_files import damaged_file_error, damaged_gguf_error
from orpo_cli.os_errors import explain_limits

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@contextmanager
def explain_load_errors(name: str, files: str | None = None) -> Iterator[None]:
    """Turn the errors of a ``from_pretrained`` for the model ``name`` (folder, .gguf file or hub id) into OrpoErrors.

    An error that a damaged file leads to can have any type; the files are only checked after an error. ``files``: those that are
    read here and nothing else is done, so that any other error is about their content.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    try:
        with explain_limits(name):
            yield
    except OrpoError:
        raise
    except HfHubHTTPError as error:
        raise _explain_response(name, error) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged_model_error(name) or MachineError(
            f"{name}: a file of it cannot be read: {str(error).strip().partition(chr(10))[0]}",
            remedy="Download or save it again.",
        ) from error
    except ImportError as error:
        raise MachineError(f"{name}: {error}", remedy="Install the missing package.") from error
    except OSError as error:
        response = response_behind(error)
        if response is not None:
            raise _explain_response(name, response) from error
        raise _damaged_model_error(name) or _explain_os_error(name, error) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{name} brings its own model code.", remedy="Read that code, then set model.trust_remote_code: true."
            ) from error
        damaged = _damaged_model_error(name)
        if damaged is not None:
            raise damaged from error
        if "recognize this architecture" in str(error) or "Unrecognized" in str(error):
            raise MachineError(
                f"{name}: the installed transformers does not know this kind of model.", remedy="Upgrade transformers."
            ) from error
        if files is None:
            raise
        raise _wrong_content(name, files, error) from error
    except Exception as error:
        damaged = _damaged_model_error(name)
        if damaged is None and files is None:
            raise
        raise damaged or _wrong_content(name, str(files), error) from error


def _wrong_content(name: str, files: str, error: Exception) -> MachineError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return MachineError(
        f"{name}: its {files} cannot be used ({reason}).", remedy="Download the model again, or upgrade transformers."
    )


def _damaged_model_error(name: str) -> MachineError | None:
    """Error for a damaged file of the model ``name``; None where its files can be read, or are not on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    path = Path(name).expanduser()
    if path.is_dir():
        folders = [path, *(folder.parent for folder in path.glob("*/config.json"))]  # also subfolders
    elif path.is_file():
        return damaged_gguf_error(path)
    else:
        try:
            config = try_to_load_from_cache(name, "config.json")
        except (HFValidationError, OSError):
            return None
        folders = [Path(config).parent] if isinstance(config, str) else []
    return next((error for folder in folders if (error := damaged_file_error(folder)) is not None), None)


def _explain_response(name: str, error: HfHubHTTPError) -> HubError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return HubRefused(f"{name} is gated.", remedy="Accept its license on the hub, then `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        return HubRefused(f"{name} has no such revision.", remedy="Check model.model_revision.")
    if isinstance(error, RepositoryNotFoundError):
        return HubRefused(
            f"{name} is not on the hub, or is private.", remedy="Check the name; for a private one `hf auth login`."
        )
    kind = hub_error_type(error.response.status_code)
    answer, remedy = "the hub is busy or has a problem", "Try again later."
    if kind is HubRefused:
        answer, remedy = "the hub refused", "Check the token (`hf auth login`) and its rights."
    return kind(f"{name}: {answer}: {str(error).splitlines()[0]}", remedy=remedy)


def not_on_this_machine(name: str) -> HubError:
    """Error for a model that has to be downloaded where the hub cannot be reached."""
    return HubError(
        f"{name} is not on this machine, and the hub could not be reached.",
        remedy="Check the network, or download it elsewhere and give the folder's path.",
    )


def _explain_os_error(name: str, error: OSError) -> OrpoError:
    text = str(error)
    if isinstance(error, PermissionError):
        return MachineError(f"{name}: no permission to read {error.filename}.")
    offline = ("couldn't connect", "offline", "Cannot find the requested files", "Max retries", "cached snapshot")
    if any(part in text for part in offline) or lost_connection_behind(error):
        return not_on_this_machine(name)
    if "not a valid model identifier" in text or "is not a local folder" in text:
        return HubRefused(f"{name} is not on the hub, or is private.", remedy="Check the name; or `hf auth login`.")
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return MachineError(f"{name}: {first}", remedy="Check that no file of the model is missing.")
