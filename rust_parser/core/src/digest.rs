//! SHA-256 that can be saved between any two bytes and go on in another process.

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::InvalidCheckpoint;

/// Length of [`Digest::state`].
pub(crate) const STATE_BYTES: usize = 112;

/// A running SHA-256 and the number of bytes it has taken.
#[derive(Clone)]
pub(crate) struct Digest {
    hasher: Sha256,
    taken_bytes: u64,
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self { hasher: Sha256::new(), taken_bytes: 0 }
    }

    /// Goes on from [`Digest::state`]; fails where the state is broken or was taken at another offset.
    pub(crate) fn resume(state: &[u8], offset_bytes: u64) -> Result<Self, InvalidCheckpoint> {
        let (taken, hasher) = state.split_first_chunk().ok_or(InvalidCheckpoint)?;
        let taken_bytes = u64::from_le_bytes(*taken);
        let state = SerializedState::<Sha256>::try_from(hasher).map_err(|_| InvalidCheckpoint)?;
        let hasher = Sha256::deserialize(&state).map_err(|_| InvalidCheckpoint)?;
        if taken_bytes == offset_bytes { Ok(Self { hasher, taken_bytes }) } else { Err(InvalidCheckpoint) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.taken_bytes += bytes.len() as u64;
    }

    /// Count of the bytes taken (8 bytes, little-endian), then the state as `sha2` serializes it: 112 bytes in all.
    ///
    /// sha2 keeps that layout stable within 0.11; a state that another version cannot read is refused, and the upload
    /// starts again.
    pub(crate) fn state(&self) -> Vec<u8> {
        [&self.taken_bytes.to_le_bytes()[..], &self.hasher.serialize()].concat()
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_saved_at_any_byte_goes_on_to_the_same_digest() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        let whole: [u8; 32] = Sha256::digest(&bytes).into();
        for at in 0..=bytes.len() {
            let mut first = Digest::new();
            first.update(&bytes[..at]);
            let state = first.state();
            assert_eq!(state.len(), STATE_BYTES);
            let mut second = Digest::resume(&state, at as u64).unwrap();
            second.update(&bytes[at..]);
            assert_eq!(second.finish(), whole);
        }
    }

    #[test]
    fn a_state_of_another_offset_or_length_is_refused() {
        let state = Digest::new().state();
        assert!(Digest::resume(&state, 1).is_err());
        assert!(Digest::resume(&state[..50], 0).is_err());
        assert!(Digest::resume(b"", 0).is_err());
    }
}
