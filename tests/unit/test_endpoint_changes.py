"""What a manager says that reads its configuration anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from headrace.endpoint.configuration.changes import changes
from headrace.endpoint.configuration.files import ConfigurationFiles
from headrace.endpoint.configuration.reload import LiveConfiguration


def written(directory: Path, **files: str) -> ConfigurationFiles:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return ConfigurationFiles.read(directory)


def test_every_change_is_a_sentence_and_no_secret_is_told(tmp_path: Path) -> None:
    before = written(
        tmp_path / "before",
        config__yaml="workers: 2\npublic: true\nenvironment: {KEY: hidden1, A: b}",
        user_config_template__yaml__j2="log_level: info",
        old__yaml="",
        user_environment__yaml="TOKEN: hidden2",
    )
    after = written(
        tmp_path / "after",
        config__yaml="workers: 4\nsandbox: true\nenvironment: {KEY: hidden3, A: b}",
        user_config_template__yaml__j2="log_level: debug",
        user_config_schema__json="{}",
        user_environment__yaml="TOKEN: hidden4\nMORE: hidden5",
    )

    assert changes(before, after) == [
        "config.yaml: environment: KEY is changed",
        "config.yaml: public is gone (it was true)",
        "config.yaml: sandbox is new: true",
        "config.yaml: workers is 4 (it was 2)",
        "old.yaml is gone",
        "user_config_template.yaml.j2 is changed",
        "the schema of the options is changed",
        "user_environment.yaml: MORE is new",
        "user_environment.yaml: TOKEN is changed",
    ]
    assert changes(before, before) == []


def test_a_template_that_comes_or_goes_is_told_of(tmp_path: Path) -> None:
    without = written(tmp_path, config__yaml="")
    with_one = written(tmp_path, user_config_template__yaml__j2="")

    assert changes(without, with_one) == ["user_config_template.yaml.j2 is new: users can give options"]
    assert changes(with_one, without) == ["user_config_template.yaml.j2 is gone: users can give no options any more"]


@pytest.mark.anyio
async def test_a_mistake_leaves_everything_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, config__yaml="workers: 2")
    live = LiveConfiguration(tmp_path)
    caplog.set_level(logging.INFO)

    (tmp_path / "config.yaml").write_text("wokers: 3")
    assert await live.reload() is False
    assert live.files.config.workers == 2
    assert "stays as it was" in caplog.text
    assert "did you mean 'workers'?" in caplog.text

    (tmp_path / "config.yaml").write_text("workers: 3")
    assert await live.reload() is True
    assert live.files.config.workers == 3
    assert "config.yaml: workers is 3 (it was 2)" in caplog.text
    assert await live.reload() is False


def test_what_was_read_stays_as_it_was_whatever_becomes_of_the_files(tmp_path: Path) -> None:
    files = written(tmp_path, config__yaml="", user_config_template__yaml__j2="workers: {{ n }}")

    (tmp_path / "user_config_template.yaml.j2").write_text("{% broken")

    assert files.pool({"n": 3}).workers == 3
