"""Loss curves of a real model: TRL's ORPOTrainer and orpo-cli on the same pairs in the same order, in one plot.

    python -m benchmarks.curves [FILE] [--steps 200] [--pairs 4]     default: the quickstart's pairs

Writes docs/images/curves.svg and prints the largest difference. One run a side, since it compares values, not time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.paired import run_alternating
from orpo_cli.library_messages import silence_libraries

ROOT = Path(__file__).parents[1]
PAIRS = ROOT / "recipes" / "data" / "answer-first-train.jsonl"
WIDTH, HEIGHT, MARGIN = 720, 320, 44


def draw_svg(curves: dict[str, list[float]]) -> str:
    """The curves as SVG; the first is wide and pale, so that the second is visible on it."""
    values = [value for curve in curves.values() for value in curve]
    low, high = min(values), max(values)
    steps = max(len(curve) for curve in curves.values())

    def point(step: int, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / max(1, steps - 1)
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    styles = [("#f4a261", 6), ("#1d3557", 1.5)]
    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" points="'
        + " ".join(point(step, value) for step, value in enumerate(curve))
        + '"/>'
        for (colour, width), curve in zip(styles, curves.values(), strict=True)
    ]
    ticks = [
        f'<text x="{MARGIN - 6}" y="{point(0, value).split(",")[1]}" text-anchor="end">{value:.2f}</text>'
        for value in (low, (low + high) / 2, high)
    ]
    legend = [
        f'<rect x="{WIDTH - 190}" y="{20 + 18 * row}" width="22" height="{width}" fill="{colour}"/>'
        f'<text x="{WIDTH - 160}" y="{26 + 18 * row}">{name}</text>'
        for row, ((colour, width), name) in enumerate(zip(styles, curves, strict=True))
    ]
    axis = f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">step (of {steps}); loss</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join([*lines, *ticks, *legend, axis]) + "\n</svg>\n"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default=str(PAIRS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "images" / "curves.svg")
    options = parser.parse_args()
    silence_libraries()
    side = ["-m", "benchmarks.training", f"{options.file}:{options.pairs}", "--steps", str(options.steps), "--side"]
    results = run_alternating({name: [*side, name] for name in ("trl", "ours")}, rounds=1)
    (trl,), (ours,) = results["trl"], results["ours"]
    print(
        f"{Path(options.file).name}, {options.steps} steps of {options.pairs} pairs, SmolLM2-135M with a LoRA adapter.\n"
    )
    for name, what in (("loss", "loss"), ("grad_norm", "gradient norm")):
        differences = [abs(a - b) for a, b in zip(trl[name], ours[name], strict=True)]
        worst = max(range(len(differences)), key=differences.__getitem__)
        print(
            f"- {what}: {trl[name][0]:.4f} at the first step, {trl[name][-1]:.4f} at the last; the largest difference is "
            f"{differences[worst]:.1e} (relative {differences[worst] / abs(trl[name][worst]):.1e}), at step {worst + 1}"
        )
    options.svg.write_text(draw_svg({"TRL's ORPOTrainer": trl["loss"], "orpo-cli": ours["loss"]}))
    print("\n![Both loss curves](images/curves.svg)")


if __name__ == "__main__":
    main()
