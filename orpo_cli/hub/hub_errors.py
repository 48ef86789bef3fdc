"""Hub errors: exceptions of huggingface_hub during a push, converted to OrpoErrors with a remedy and without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orpo_cli import interruption
from orpo_cli.errors import HubError, HubRefused, Interrupted, MachineError, OrpoError, hub_error_type
from orpo_cli.os_errors import explain_os_error
from orpo_cli.redaction import redact

REPEAT_TO_CONTINUE = "Repeating the same command continues where this one stopped."


@contextmanager
def translate_hub_errors(repo_id: str) -> Iterator[None]:
    """Convert the exceptions that huggingface_hub raises while it pushes to ``repo_id``.

    They have no common base class: HTTP errors, connection errors of its HTTP client, RuntimeError from Xet and around the
    error of an upload thread, ValueError for refused metadata, refused LFS objects and responses that are not JSON.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # HTTPError: its HTTP client's

    try:
        yield
    except OrpoError:
        raise
    except KeyboardInterrupt as error:
        kept = f"{interruption.interrupted()}: files that were sent to {repo_id} are not sent again."
        raise Interrupted(kept, remedy=REPEAT_TO_CONTINUE) from error
    except HfHubHTTPError as error:
        raise _response_error(repo_id, error) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _connection_error(repo_id, error) from error
    except OSError as error:
        raise explain_os_error(error) or MachineError(
            f"{error.filename or repo_id}: {error.strerror or error}.", remedy=REPEAT_TO_CONTINUE
        ) from error
    except UnicodeEncodeError as error:  # of the authorization header
        raise HubRefused(
            f"{repo_id}: the hub token has a character that is not ASCII.",
            remedy="Check HF_TOKEN, or use `hf auth login`.",
        ) from error
    except (RuntimeError, ValueError) as error:
        cause = error.__cause__
        if isinstance(cause, OrpoError):
            raise cause from error
        if isinstance(cause, HfHubHTTPError):
            raise _response_error(repo_id, cause) from error
        if isinstance(cause, (HTTPError, ConnectionError, TimeoutError)):
            raise _connection_error(repo_id, cause) from error
        raise HubError(f"{repo_id}: {redact(str(error)).strip()}", remedy=REPEAT_TO_CONTINUE) from error


def _response_error(repo_id: str, error: Exception) -> HubError:
    response = error.response  # type: ignore[attr-defined]
    status, namespace = response.status_code, repo_id.partition("/")[0]
    explanations = {
        401: ("the hub does not know this token", "Log in again with `hf auth login`, or set HF_TOKEN."),
        402: ("the hub requires a payment: the private storage may be full", "See the billing page of your account."),
        403: (f"this token may not write to {namespace}", f"Use a token with the write role for {namespace}."),
        404: ("the repository or the revision was not found", "Check the name, and that your token may read it."),
        409: ("the repository was changed at the same time", "Try again."),
        412: ("the repository was changed at the same time", "Try again."),
        413: ("a file is too large for the hub", "Merge again with a smaller --max-shard-size and --overwrite."),
        429: (
            "too many requests to the hub",
            f"Wait {response.headers.get('Retry-After', 'a few')} seconds, then try again.",
        ),
    }
    explanation, remedy = explanations.get(status, ("the hub refused the request", "Check the message of the hub."))
    if status >= 500:
        explanation, remedy = "the hub has a problem", "Try again in a few minutes."
    server_message = getattr(error, "server_message", None)
    detail = f" {redact(server_message)}" if server_message else ""
    message = f"{repo_id}: {explanation} (HTTP {status}).{detail}"
    return hub_error_type(status)(message, remedy=f"{remedy} {REPEAT_TO_CONTINUE}")


def _connection_error(repo_id: str, error: Exception) -> HubError:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return HubError(f"{repo_id}: HF_HUB_OFFLINE disables the hub.", remedy="Unset HF_HUB_OFFLINE.")
    return HubError(
        f"{repo_id}: the connection to {constants.ENDPOINT} failed: {redact(str(error)) or type(error).__name__}",
        remedy=f"Check the network. {REPEAT_TO_CONTINUE}",
    )
