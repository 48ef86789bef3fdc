"""`training.watchdogs`: what each watchdog of a training does when it finds something. ``orpo_cli.watchdogs`` has the rules."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from orpo_cli.recipe.schema.section import Section

WatchdogAction = Literal["advise", "stop", "off"]
# A name's code is written with hyphens: `orpo explain loss-spike`.
ADVISE: WatchdogAction = "advise"


class WatchdogSettings(Section):
    """Actions of single watchdogs; those that are left out advise. `advise` prints a warning, `stop` also saves a checkpoint and ends the run with exit code 5, `off` does nothing."""

    chosen_likelihood_falls: WatchdogAction = Field(
        ADVISE, description="Chosen completions become less likely than under the base while the margin grows."
    )
    overfitting: WatchdogAction = Field(
        ADVISE,
        description="The chosen completions of training pairs are nearly certain, the rejected ones nearly impossible.",
    )
    odds_ratio_negligible: WatchdogAction = Field(
        ADVISE, description="The odds ratio term is small beside the NLL, and the margin does not move."
    )
    accuracy_unchanged: WatchdogAction = Field(
        ADVISE, description="After half of the run, the accuracy is still that of the base."
    )
    evaluation_worse: WatchdogAction = Field(
        ADVISE, description="eval_loss was above its best value in the last three evaluations."
    )
    length_bias: WatchdogAction = Field(
        ADVISE, description="The model prefers the longer, or the shorter, completion of nearly every held-out pair."
    )
    loss_spike: WatchdogAction = Field(ADVISE, description="The loss stays above twice its recent mean.")
    gradient_clipped: WatchdogAction = Field(
        ADVISE, description="The gradient norm is far above max_grad_norm for long."
    )
    throughput_halved: WatchdogAction = Field(
        ADVISE, description="Tokens per second have fallen to half of those at the start."
    )


def _action_or_settings(value: Any) -> str:
    return (
        "[settings]" if isinstance(value, dict | BaseModel) else "[action]"
    )  # brackets, so that it is no key of a recipe


Watchdogs = Annotated[
    Annotated[WatchdogAction, Tag("[action]")] | Annotated[WatchdogSettings, Tag("[settings]")],
    Discriminator(_action_or_settings),
]
