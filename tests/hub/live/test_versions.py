"""The packages under test are those of the set, not of the environment below it."""

import os
from importlib import metadata

import pytest

from tests.environments.version_sets import EXPECTED


@pytest.mark.long
@pytest.mark.skipif(EXPECTED not in os.environ, reason="of `make test-versions`")
def test_packages_are_those_of_the_set() -> None:
    pins = [pin.split("==") for pin in os.environ[EXPECTED].split()]
    assert [[name, metadata.version(name)] for name, _ in pins] == pins
