"""JSON Schemas of the task files, taken from SkyPilot, dstack and kubernetes-validate, without descriptions.

In an environment with these three packages: python tests/unit/launch/schemas/write_schemas.py
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
KUBERNETES = "v1.31.0-local-strict"
DROPPED = ("description", "title", "format", "default", "$id", "$schema")


def without_descriptions(schema: Any, *, names: bool = False) -> Any:
    """A schema without texts; ``names``: the keys of this mapping are names of properties."""
    if isinstance(schema, list):
        return [without_descriptions(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_descriptions(value, names=not names and key in ("properties", "$defs", "definitions"))
        for key, value in schema.items()
        if names or not (key in DROPPED or key.startswith("x-kubernetes"))
    }


def kubernetes_schema() -> dict[str, Any]:
    """Schemas of a job and a service, with the definitions that they use."""
    import kubernetes_validate

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    kinds = {kind: json.loads((folder / file).read_text()) for kind, file in FILES.items()}
    used: dict[str, Any] = {}
    waiting = list(kinds.values())
    while waiting:
        for name in re.findall(r'#/\$defs/([\w.-]+)"', json.dumps(waiting.pop())):
            if name not in used:
                used[name] = definitions[name]
                waiting.append(definitions[name])
    text = json.dumps({"oneOf": list(kinds.values()), "$defs": used})
    return dict(json.loads(re.sub(r'"[^"]*#/\$defs/', '"#/$defs/', text)))


FILES = {"Job": "job-batch-v1.json", "Service": "service-v1.json"}


def main() -> None:
    """Write the three schemas."""
    from dstack._internal.core.models.configurations import TaskConfiguration
    from sky.utils import schemas

    sky = schemas.get_task_schema()
    sky["properties"]["resources"] = schemas.get_resources_schema()
    documents = {
        f"skypilot-{version('skypilot')}": sky,
        f"dstack-{version('dstack')}": TaskConfiguration.model_json_schema(),
        f"kubernetes-{KUBERNETES.split('-')[0][1:]}": kubernetes_schema(),
    }
    for name, schema in documents.items():
        text = json.dumps(without_descriptions(schema), sort_keys=True, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
