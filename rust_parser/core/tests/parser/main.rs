//! The parser through its front: a table of files, then what holds for all files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod limits;
mod properties;
mod support;
