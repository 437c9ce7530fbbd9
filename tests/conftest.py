"""Fixtures for all tests stand in `fix_*.py`, one subject each."""

import signal

pytest_plugins = ["tests.fix_fake_dari", "tests.fix_local_model", "tests.fix_postgres", "tests.fix_server"]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
