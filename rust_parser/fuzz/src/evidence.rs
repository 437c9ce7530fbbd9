//! Any bytes as evidence: refused, or a profile. And the evidence of a file's batches: however it is merged, what is exact
//! stays so, and is what the rows say.

use dari_parser::{ColumnProfile, merge_evidence, profile};

use super::case::Case;
use super::output::{Output, read};

/// Values are cut here.
const VALUE_BYTES: usize = 256;

/// See the module. The first byte chooses.
pub fn check(input: &[u8]) {
    match input.split_first() {
        Some((0, evidence)) => check_any_bytes(evidence),
        Some((_, file)) => check_file(file),
        None => {}
    }
}

fn check_any_bytes(evidence: &[u8]) {
    let Ok(whole) = profile(evidence) else {
        assert!(merge_evidence([evidence]).is_err(), "what has no profile cannot be merged");
        return;
    };
    let alone = merge_evidence([evidence]).expect("it has a profile");
    assert_eq!(profile(&alone).expect("it was merged").columns.len(), whole.columns.len());
    let twice = merge_evidence([evidence, evidence]).expect("it has a profile");
    profile(&twice).expect("it was merged");
}

fn check_file(input: &[u8]) {
    let Some(case) = Case::of(input) else { return };
    let Ok(output) = read(case.options, [case.file]) else { return };
    let parts: Vec<&[u8]> =
        output.batches.iter().map(|batch| batch.evidence.as_slice()).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return;
    }
    let at_once = merge_evidence(parts.iter().copied()).expect("evidence of batches");
    let (left, right) = parts.split_at(parts.len() / 2);
    let halves = [left, right].map(|half| merge_evidence(half.iter().copied()).expect("evidence of batches"));
    let in_halves = merge_evidence(halves.iter().map(Vec::as_slice).filter(|half| !half.is_empty()));
    let (at_once, in_halves) = (profile(&at_once), profile(&in_halves.expect("evidence of halves")));
    let (at_once, in_halves) = (at_once.expect("merged"), in_halves.expect("merged"));
    for (one, other) in at_once.columns.iter().zip(&in_halves.columns) {
        assert_eq!(exact(one), exact(other));
    }
    check_counts(&output, &at_once.columns);
}

/// All that must not depend on how parts were grouped.
fn exact(column: &ColumnProfile) -> ColumnProfile {
    let sum = if column.sum_is_exact { column.sum.clone() } else { String::new() };
    ColumnProfile { sum, mean: None, top_values: Vec::new(), ..column.clone() }
}

fn check_counts(output: &Output, columns: &[ColumnProfile]) {
    let rows = output.rows();
    assert_eq!(columns.len(), output.columns().len());
    for (place, column) in columns.iter().enumerate() {
        let cells: Vec<_> = rows.iter().map(|row| row.cells[place].as_deref()).collect();
        assert_eq!(column.missing, cells.iter().filter(|cell| cell.is_none()).count() as u64);
        assert_eq!(column.cells, cells.iter().flatten().count() as u64);
        assert_eq!(column.empty, cells.iter().flatten().filter(|cell| cell.is_empty()).count() as u64);
        for top in column.top_values.iter().filter(|top| top.value.len() < VALUE_BYTES) {
            let stands = cells.iter().filter(|cell| **cell == Some(top.value.as_bytes())).count() as u64;
            assert!(stands <= top.count && stands + top.error >= top.count, "{top:?} stands {stands} times");
        }
    }
}
