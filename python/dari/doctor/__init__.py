"""Examines an installation by its settings, beside the server that runs or in its stead: what `dari doctor` shows.

Each check looks at one thing, by the same code as the server where there is such code, and changes nothing. It tells
what it found as `Finding`s: without a secret, a row or the text of an exception.
"""
