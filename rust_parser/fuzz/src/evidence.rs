//! Any bytes as evidence: refused, or a profile that merging with nothing does not change.

use dari_parser::{merge_evidence, profile};

/// See the module.
pub fn check(input: &[u8]) {
    let Some((&cut, evidence)) = input.split_first() else { return };
    // Two parts of any bytes.
    let (first, second) = evidence.split_at(usize::from(cut).min(evidence.len()));
    let merged = merge_evidence([first, second]);
    let Ok(whole) = profile(evidence) else {
        assert!(merge_evidence([evidence]).is_err(), "what has no profile cannot be merged");
        return;
    };
    let alone = merge_evidence([evidence]).expect("it has a profile");
    assert_eq!(profile(&alone).expect("it was merged"), whole);
    let twice = merge_evidence([evidence, evidence]).expect("it has a profile");
    let twice = profile(&twice).expect("it was merged");
    assert_eq!(twice.columns.len(), whole.columns.len());
    if let Ok(merged) = merged {
        profile(&merged).expect("it was merged");
    }
}
