"""What the hub's client raises during a push, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orpo_cli.errors import HubError, HubRefused, Interrupted, MachineError, OrpoError, hub_error_type
from orpo_cli.redaction import redact

REPEAT_TO_CONTINUE = "Repeating the same command continues where this one stopped."


@contextmanager
def translate_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while pushing to ``repo_id`` into OrpoErrors without secrets in them.

    Its errors have no common base: HTTP errors, connection errors of its HTTP client, RuntimeError around the error of
    an upload thread and from Xet, ValueError for refused metadata, refused LFS objects and answers that are not JSON.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # HTTPError: its HTTP client's

    try:
        yield
    except OrpoError:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(f"{repo_id}: the push was interrupted.", remedy=REPEAT_TO_CONTINUE) from error
    except HfHubHTTPError as error:
        raise _response_error(repo_id, error) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _connection_error(repo_id, error) from error
    except OSError as error:
        raise MachineError(f"{error.filename or repo_id}: {error.strerror or error}") from error
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
    meaning = {
        401: ("the hub does not know this token", "Log in anew with `hf auth login`, or set HF_TOKEN."),
        402: ("the hub asks for payment: the private storage may be full", "See the billing page of your account."),
        403: (f"this token may not write to {namespace}", f"Use a token with the write role for {namespace}."),
        404: ("the repository or the revision is not there", "Check the name, and that your token may see it."),
        409: ("the repository was changed at the same time", "Try again."),
        412: ("the repository was changed at the same time", "Try again."),
        413: ("a file is too large for the hub", "Merge again with a smaller --max-shard-size."),
        429: (
            "the hub asks to slow down",
            f"Wait {response.headers.get('Retry-After', 'a few')} seconds, then try again.",
        ),
    }
    text, remedy = meaning.get(status, ("the hub refused", "Try again."))
    if status >= 500:
        text, remedy = "the hub has trouble", "Try again in a few minutes."
    said = getattr(error, "server_message", None)
    detail = f" {redact(said)}" if said else ""
    message = f"{repo_id}: {text} (HTTP {status}).{detail}"
    return hub_error_type(status)(message, remedy=f"{remedy} {REPEAT_TO_CONTINUE}")


def _connection_error(repo_id: str, error: Exception) -> HubError:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return HubError(f"{repo_id}: the hub is switched off by HF_HUB_OFFLINE.", remedy="Unset HF_HUB_OFFLINE.")
    return HubError(
        f"{repo_id}: the connection to {constants.ENDPOINT} failed: {redact(str(error)) or type(error).__name__}",
        remedy=f"Check the network. {REPEAT_TO_CONTINUE}",
    )
