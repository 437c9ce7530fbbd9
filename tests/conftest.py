"""Fixtures for all tests stand in `fix_*.py`, one subject each."""

pytest_plugins = ["tests.fix_fake_dari", "tests.fix_local_model", "tests.fix_postgres", "tests.fix_server"]
