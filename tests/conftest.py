"""Fixtures built once for all tests."""

import pytest
import small_world

from internal_rl.data import Batch


@pytest.fixture(scope="session")
def world() -> small_world.World:
    return small_world.small_world()


@pytest.fixture(scope="session")
def batch() -> Batch:
    return small_world.random_batch()
