from __future__ import annotations

import pytest

from r1trt.errors import ConfigError
from r1trt.serving.config import SchedulerConfig, ServingConfig

CONFIGS = [
    ServingConfig(),
    ServingConfig(rows=3, threads=2),
    ServingConfig(rows=3, cluster="10.0.0.1:6379"),
    ServingConfig(scheduler=SchedulerConfig(prefix_reuse=False)),
    ServingConfig(rows=8, scheduler=SchedulerConfig(chunk_tokens=8, token_budget=40, max_queue=5)),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_say_everything(config: ServingConfig) -> None:
    assert ServingConfig.from_parameters({**config.to_parameters(), "EXECUTION_ENV_PATH": "env"}) == config


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rows": "three"}, "not integers(.|\n)*rows"),
        ({"rows": "0"}, "rows is too small"),
        ({"threads": "0"}, "threads is too small"),
        ({"max_queue": "0"}, "max_queue is too small"),
        ({"prefix_reuse": "2"}, "neither on nor off"),
        ({"prefix_reuse": "0", "reuse_answers": "1"}, "needs prefix_reuse"),
        ({"chunk_tokens": "-1"}, "not integers(.|\n)*chunk_tokens"),
    ],
)
def test_edited_parameters_are_checked(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServingConfig.from_parameters(parameters)
