"""Rehearses fail-overs on a running system, as any client can: by a test upstream of its own, and its own mapping.

Nothing that was there is changed, drained or asked to fail: each fault happens to an AI model that the drill makes for
it and takes away again, at an address of the drill's own, so that only circuits of the drill's own see it. What stands
in for it is real, and is asked one question as any turn asks it.
"""
