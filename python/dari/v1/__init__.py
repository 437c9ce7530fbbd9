"""Generated from `proto/dari/v1` by `make stubs`; never edited by hand."""
