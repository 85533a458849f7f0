//! A few bytes that come in pieces: a header that was cut anywhere.

/// Up to `N` bytes, gathered from pieces.
#[derive(Clone, Debug)]
pub(super) struct Gathered<const N: usize> {
    pub(super) bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Gathered<N> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Takes bytes until there are `wanted` (at most `N`); gives the rest.
    pub(super) fn gather<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
        let missing = wanted.min(N).saturating_sub(self.len).min(bytes.len());
        let Some((taken, rest)) = bytes.split_at_checked(missing) else { return bytes };
        let end = self.len.saturating_add(missing);
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(taken);
            self.len = end;
        }
        rest
    }
}
