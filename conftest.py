"""`pytest` runs tests/; `pytest --benchmark` runs the speed and accuracy checks of bench/."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    parser.addoption("--benchmark", action="store_true", help="run bench/ instead of tests/")
    parser.addoption(
        "--benchmark-full",
        action="store_true",
        help="the same with all cases and baselines, not the headline set alone",
    )
    parser.addoption(
        "--results",
        default="bench/results",
        help="where --benchmark keeps its rows (--results=FOLDER, with the sign)",
    )
    parser.addoption(
        "--patience",
        type=float,
        default=0,
        help="seconds that each case of --benchmark waits for a quiet machine",
    )
    config = pluginmanager.get_plugin("pytestconfig")
    asked = {"--benchmark", "--benchmark-full"}
    if config is not None and asked.intersection(config.invocation_params.args):
        # pyproject.toml blocks pytest-benchmark, so that plain runs carry no trace of it
        pluginmanager.import_plugin("pytest_benchmark.plugin")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "headline: parameters of cases that --benchmark runs")
    if config.getoption("benchmark_full"):
        config.option.benchmark = True
    if config.getoption("benchmark"):
        config.option.benchmark_quiet = True  # bench/conftest.py prints ratios instead
        config.option.verbose = config.option.verbose or 1  # the case that runs is named
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args[:] = [str(config.rootpath / "bench")]
