//! Every input that the fuzz targets kept, once more: what must hold for it holds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
mod targets;

use std::path::Path;

/// Runs all inputs of a target in the order of their names; the name of the one that fails stands in the output.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    for path in paths {
        eprintln!("{}", path.display());
        check(&std::fs::read(path).unwrap());
    }
}

#[test]
fn any_bytes_in_any_pieces_give_the_same_and_every_byte_is_counted_once() {
    replay("any_file", targets::any_file::check);
}

#[test]
fn tables_by_the_book_are_read_as_the_csv_crate_reads_them() {
    replay("csv_crate", targets::csv_crate::check);
}

#[test]
fn any_bytes_are_read_as_a_plain_reader_reads_them() {
    replay("reference", targets::reference::check);
}

#[test]
fn what_is_found_out_about_any_bytes_agrees_with_what_was_told() {
    replay("detect", targets::detect::check);
}

#[test]
fn any_bytes_as_evidence_are_refused_or_have_a_profile() {
    replay("evidence", targets::evidence::check);
}

#[test]
fn what_is_written_is_read_by_the_csv_crate() {
    replay("csv_writer", targets::csv_writer::check);
}
