"""When to train."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from ct_llm.config.section import Duration, HubId, Section


class DriftConfig(Section):
    """Do the new rows differ from those that the champion was trained on? Reads rows, no model."""

    enabled: bool = False
    min_auc: float = Field(default=0.65, gt=0.5, lt=1.0)
    """A classifier must tell new rows from old ones at least this well (0.5: not at all) ..."""
    alpha: float = Field(default=0.01, ge=0.001, lt=0.5)
    """... and a permutation of the labels do as well with at most this probability."""
    sample_rows: int = Field(default=2_000, ge=100, le=20_000)
    """Rows taken of each side, from at most eight files."""
    min_new_rows: int = Field(default=200, ge=20)
    """Fewer distinct rows than this, on either side, are not judged."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class WebhookConfig(Section):
    """`ct-llm watch --serve`: what the Hub's webhook starts."""

    secret_env: str = "CT_LLM_WEBHOOK_SECRET"
    """The environment variable with the secret that X-Webhook-Secret must equal."""
    start: Literal["run", "github"] = "run"
    """run: `ct-llm run` on this machine. github: a repository_dispatch, which a workflow waits for."""
    github_repo: HubId | None = None
    """owner/name on GitHub; the token comes from GITHUB_TOKEN."""
    github_event: str = Field(default="ct-llm", min_length=1, max_length=100)
    """event_type of the repository_dispatch."""

    @model_validator(mode="after")
    def _github_repo_named(self) -> "WebhookConfig":
        if self.start == "github" and self.github_repo is None:
            raise ValueError("start: github needs github_repo")
        return self


class WatchConfig(Section):
    """A cycle starts when any (or all) of the rules that are set is met and no brake holds.

    Where there is no champion yet, volume and schedule alone decide (one new row is enough where
    neither is set), and the schedule counts as overdue.
    """

    threshold_samples: int | None = Field(default=10_000, ge=1)
    """volume: train when at least this many new rows are there; null: no such rule."""
    max_data_age: Duration | None = None
    """freshness: train when there are new rows and the champion's data is older than this, e.g. 14d."""
    max_holdout_age: Duration | None = None
    """holdout_age: the same for the newest rows that the champion was compared on: those of the cycle
    that made it, or of a later one whose challenger lost against it."""
    drift: DriftConfig = DriftConfig()
    schedule: str | None = None
    """cron text (UTC), e.g. "0 3 * * 0": train when it came due since the last cycle and there is at
    least one new row."""
    train_when: Literal["any", "all"] = "any"
    """Of the rules that are set, how many must be met."""
    debounce: Duration = timedelta(0)
    """Wait until the dataset was left alone for this long: somebody may still be pushing."""
    cooldown: Duration = timedelta(0)
    """Wait this long after a cycle that was not promoted. Rollbacks are no cycles, here and below."""
    max_cycles_per_day: int | None = Field(default=None, ge=1, le=100)
    """Of cycles that ended within the last 24 hours, whatever came of them."""
    max_cycles_per_week: int | None = Field(default=None, ge=1, le=100)
    """The same within the last seven days."""
    webhook: WebhookConfig = WebhookConfig()

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            from cronsim import CronSim, CronSimError

            try:
                if len(value.split()) != 5:
                    raise CronSimError("wrong number of fields")
                CronSim(value, datetime(2026, 1, 1))
            except CronSimError as error:
                raise ValueError(f"is not a cron expression of five fields ({error})") from None
        return value

    @model_validator(mode="after")
    def _some_rule(self) -> "WatchConfig":
        rules = (self.threshold_samples, self.max_data_age, self.max_holdout_age, self.schedule)
        if all(rule is None for rule in rules) and not self.drift.enabled:
            raise ValueError("no rule is set, so nothing would ever start a cycle but --force")
        return self
