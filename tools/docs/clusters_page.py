"""Clusters page of docs/how-to: the Slurm script on it is the one that `orpo submit` prints for the first recipe of the page."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from orpo_cli.launch.slurm import slurm_script
from orpo_cli.launch.train_job import TrainJob
from orpo_cli.recipe.load import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "clusters.md"
BLOCK = re.compile(
    r"(?<=<!-- slurm: written by tools/generate_docs\.py -->\n```bash\n).*?(?=```\n<!-- end -->)", re.DOTALL
)
PROJECT = Path("/home/me/project")
REST = "model: {model_name_or_path: Qwen/Qwen2.5-0.5B}\ndataset: {train: {path: org/pairs}}\n"


def page() -> str:
    """The page with its script up to date."""
    text = PAGE.read_text(encoding="utf-8")
    recipe = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "helpful.yaml"
        file.write_text(REST + recipe, encoding="utf-8")
        loaded = load_recipe(str(file))
    job = TrainJob(loaded, str(PROJECT / "helpful.yaml"), PROJECT)
    script = slurm_script(job, PROJECT / "runs" / "helpful" / "logs", python=str(PROJECT / ".venv" / "bin" / "python"))
    return BLOCK.sub(lambda _: script, text)
