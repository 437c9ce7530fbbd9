"""What the commands of `dari` do; `dari.cli` says how they are written. One module a subject.

`dari.cli` and `map` are loaded for every `--help`: they import the rest, gRPC and the server only inside functions.
"""
