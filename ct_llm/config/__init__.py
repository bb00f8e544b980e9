"""`ct.yaml`: one sub-model per step, `--set a.b=c` on top, and errors that name the dotted path.

Relative paths are relative to the file that names them. Every field's comment below is also what
`ct-llm init` and the reference say.
"""

from ct_llm.config.data import (
    COLUMNS,
    DatasetConfig,
    DecontaminationConfig,
    Format,
    NearDuplicateConfig,
    PrepareConfig,
    ReplayConfig,
    RowFormat,
)
from ct_llm.config.evaluation import (
    OVERALL_TARGETS,
    EvaluateConfig,
    GateConfig,
    NewestConfig,
    NewestGeneratedConfig,
    Suite,
    TaskConfig,
    resolve_target,
)
from ct_llm.config.load import PACKAGE, apply_override, load_config, load_suite, shipped, validate
from ct_llm.config.section import Duration, HubId, Section
from ct_llm.config.watch import DriftConfig, WatchConfig, WebhookConfig
from ct_llm.config.whole import (
    BaseModelConfig,
    CTConfig,
    HubConfig,
    LaunchConfig,
    LoraConfig,
    PromoteConfig,
    TrainConfig,
)

__all__ = [
    "COLUMNS",
    "OVERALL_TARGETS",
    "PACKAGE",
    "BaseModelConfig",
    "CTConfig",
    "DatasetConfig",
    "DecontaminationConfig",
    "DriftConfig",
    "Duration",
    "EvaluateConfig",
    "Format",
    "GateConfig",
    "HubConfig",
    "HubId",
    "LaunchConfig",
    "LoraConfig",
    "NearDuplicateConfig",
    "NewestConfig",
    "NewestGeneratedConfig",
    "PrepareConfig",
    "PromoteConfig",
    "ReplayConfig",
    "RowFormat",
    "Section",
    "Suite",
    "TaskConfig",
    "TrainConfig",
    "WatchConfig",
    "WebhookConfig",
    "apply_override",
    "load_config",
    "load_suite",
    "resolve_target",
    "shipped",
    "validate",
]
