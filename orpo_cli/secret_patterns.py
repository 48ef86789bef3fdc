"""Patterns of secrets: names of environment variables and keys, and forms of tokens, that probably mean a secret."""

from __future__ import annotations

import re
from functools import lru_cache

START = r"(?:\b|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))"  # of a word, also in a percent-encoded text
SECRETS = {
    "a Hugging Face token": re.compile(START + r"(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    "an AWS access key": re.compile(START + r"(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(START + r"(?:gh[opsru]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "a GitLab token": re.compile(START + r"glpat-[\w-]{16,}"),
    "a Weights & Biases key": re.compile(START + r"wandb_v\d_\w{20,}|(?i:wandb\w{0,20}key)\W{1,4}[0-9a-f]{40}\b"),
    "an API key": re.compile(START + r"sk-[A-Za-z0-9_-]{20,}"),
    "a Slack token": re.compile(START + r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "a Google API key": re.compile(START + r"AIza[A-Za-z0-9_-]{35}"),
    "a signed token (JWT)": re.compile(START + r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    "an Azure account key": re.compile(r"(?i)\bAccountKey=[A-Za-z0-9+/]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    "a signed URL": re.compile(
        r"(?i)[?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|token|api_?key"
        r"|access_(?:token|key)|auth|password|secret)=[^\s&]{8,}"
    ),
}
# Parts of names, separated by underscores. NUM_TOKENS, KEYBOARD and TOKENIZERS_PARALLELISM have none of them.
_SECRET_NAME = re.compile(
    r"""(?:^|.*_)(?:
        (?:.*TOKEN | .*SECRET | KEY | (?:API|ACCESS|AUTH|SECRET|PRIVATE)KEY | PAT | DSN | CONNECTION_STRING | CONN_STR)$
        | (?<=_)PWD$  # not PWD, the current directory
        | (?:DATABASE|DB)_UR[IL]$
        | (?:API|ACCESS|PRIVATE|SECRET)_KEY(?:_|$)
        | SECRETS?(?:_|$) | PASSPHRASE | WEBHOOK | AUTHORIZATION
        | .*(?:PASSWORD | PASSWD | CREDENTIAL)
    )""",
    re.VERBOSE,
)
# Tokens of a vocabulary, and keys that are public or of a table.
_HARMLESS_NAME = re.compile(
    r"(?:^|.*_)(?:(?:BOS|EOS|EOT|PAD|UNK|MASK|SEP|CLS|END|STOP|SPECIAL)_TOKEN|(?:PUBLIC|PRIMARY|FOREIGN|SORT)_KEY)$"
)


@lru_cache(maxsize=4096)
def looks_secret(name: str) -> bool:
    """Whether a variable or key with this name probably contains a secret."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").upper()  # hubToken as HUB_TOKEN
    return _SECRET_NAME.match(parts) is not None and _HARMLESS_NAME.match(parts) is None


def secret_kind(text: str) -> str | None:
    """The kind of secret that ``text`` contains; None if it contains none."""
    return next((kind for kind, pattern in SECRETS.items() if pattern.search(text)), None)
