//! Opaque tokens handed to clients: where a page ended, and how far a reader has seen.
//!
//! A token is bound by a tag to the cluster, to what it is for and to the filter it was made under; one that is
//! foreign, damaged or of another filter is refused as `PAGE_TOKEN_STALE` and never half understood. It is no
//! secret and grants nothing: what a page shows is authorised anew each time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 8;
/// Longest token looked at; ours stay far below.
const TEXT_BYTES_MAX: usize = 1_024;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    Page = 1,
    /// A log index: of a read, a write or a watch.
    Resume = 2,
}

/// The token is not one this cluster made for this use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is foreign, damaged or of another filter")]
pub struct Stale;

/// Makes and reads the tokens of one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    cluster: Uuid,
}

impl Tokens {
    pub fn new(cluster: Uuid) -> Self {
        Self { cluster }
    }

    /// A page's token: `filter` is the canonical form of everything that decides which rows are listed.
    pub fn page(&self, method: &str, filter: &[u8], position: &[u8]) -> String {
        self.seal(Purpose::Page, &binding(method, filter), position)
    }

    pub fn open_page(&self, method: &str, filter: &[u8], token: &str) -> Result<Vec<u8>, Stale> {
        self.open(Purpose::Page, &binding(method, filter), token)
    }

    /// A resume token of a log index.
    pub fn resume(&self, index: u64) -> String {
        self.seal(Purpose::Resume, &[], &index.to_be_bytes())
    }

    pub fn open_resume(&self, token: &str) -> Result<u64, Stale> {
        let position = self.open(Purpose::Resume, &[], token)?;
        Ok(u64::from_be_bytes(position.try_into().map_err(|_| Stale)?))
    }

    fn seal(&self, purpose: Purpose, binding: &[u8], position: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(2 + TAG_BYTES + position.len());
        bytes.push(VERSION);
        bytes.push(purpose as u8);
        bytes.extend_from_slice(&self.tag(purpose, binding, position));
        bytes.extend_from_slice(position);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn open(&self, purpose: Purpose, binding: &[u8], token: &str) -> Result<Vec<u8>, Stale> {
        if token.len() > TEXT_BYTES_MAX {
            return Err(Stale);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Stale)?;
        let (head, position) = bytes.split_at_checked(2 + TAG_BYTES).ok_or(Stale)?;
        let expected = self.tag(purpose, binding, position);
        if head[0] != VERSION || head[1] != purpose as u8 || head[2..] != expected {
            return Err(Stale);
        }
        Ok(position.to_vec())
    }

    fn tag(&self, purpose: Purpose, binding: &[u8], position: &[u8]) -> [u8; TAG_BYTES] {
        let mut hash = Sha256::new();
        hash.update(b"okno/token/1");
        hash.update(self.cluster.as_bytes());
        hash.update([purpose as u8]);
        hash.update((binding.len() as u64).to_be_bytes());
        hash.update(binding);
        hash.update(position);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash.finalize()[..TAG_BYTES]);
        tag
    }
}

fn binding(method: &str, filter: &[u8]) -> Vec<u8> {
    [method.as_bytes(), &[0], filter].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(n: u128) -> Tokens {
        Tokens::new(Uuid::from_u128(n))
    }

    #[test]
    fn a_token_opens_only_where_it_was_made_for() {
        let token = tokens(1).page("List", b"office=1", b"position");
        assert_eq!(tokens(1).open_page("List", b"office=1", &token), Ok(b"position".to_vec()));
        assert_eq!(tokens(1).open_page("List", b"office=2", &token), Err(Stale), "another filter");
        assert_eq!(tokens(1).open_page("History", b"office=1", &token), Err(Stale), "another method");
        assert_eq!(tokens(2).open_page("List", b"office=1", &token), Err(Stale), "another cluster");
        assert_eq!(tokens(1).open_resume(&token), Err(Stale), "another purpose");
    }

    #[test]
    fn damaged_tokens_are_stale() {
        let token = tokens(1).page("List", b"", b"position");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ascii");
            assert_eq!(tokens(1).open_page("List", b"", &changed), Err(Stale), "changed at {at}");
            assert_eq!(tokens(1).open_page("List", b"", &token[..at]), Err(Stale), "cut at {at}");
        }
        for text in ["!", "ж", &"A".repeat(2_000)] {
            assert_eq!(tokens(1).open_page("List", b"", text), Err(Stale));
        }
    }

    #[test]
    fn resume_tokens_carry_an_index() {
        for index in [0, 1, u64::MAX] {
            assert_eq!(tokens(1).open_resume(&tokens(1).resume(index)), Ok(index));
        }
    }
}
