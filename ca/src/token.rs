//! Pure. Join tokens: `mf1.<id>.<secret>.<pin>` (`contracts.md` 1.3). The secret is shown once and never stored.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::keys::sha256;

/// The version that tokens begin with.
pub const PREFIX: &str = "mf1";
/// Characters of an id.
pub const ID_LEN: usize = 10;
/// Characters of a whole token.
pub const TOKEN_LEN: usize = 3 + 1 + ID_LEN + 1 + 43 + 1 + 43;
const ID_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A text that is no token. It never repeats the text, which may hold most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token; a token looks like mf1.ID.SECRET.PIN and comes from 'meshfed token create'")]
pub struct InvalidToken;

/// No random numbers were to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random numbers")]
pub struct NoRandomness;

/// A join token: single use, short-lived, bound to one cluster.
#[derive(Clone)]
pub struct Token {
    id: String,
    secret: Zeroizing<[u8; 32]>,
    pin: [u8; 32],
}

/// The secret never reaches a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("secret", &"<hidden>").finish_non_exhaustive()
    }
}

/// 43 characters of base64url without padding, in their one canonical form.
fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != 43 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Whether a text has the form of a token id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| ID_ALPHABET.contains(&b))
}

/// An id: ten characters of `a-z0-9`, each equally likely.
fn random_id() -> Result<String, NoRandomness> {
    let mut id = String::with_capacity(ID_LEN);
    while id.len() < ID_LEN {
        let mut bytes = [0u8; 32];
        rand::fill(&mut bytes).map_err(|_unspecified| NoRandomness)?;
        // 252 = 7 · 36: larger bytes would make some characters likelier.
        let usable = bytes.iter().filter(|b| **b < 252).map(|b| char::from(ID_ALPHABET[usize::from(*b) % 36]));
        id.extend(usable.take(ID_LEN - id.len()));
    }
    Ok(id)
}

impl Token {
    /// A new token for a fleet whose anchor's key has hash `pin`.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(pin: [u8; 32]) -> Result<Self, NoRandomness> {
        let mut secret = Zeroizing::new([0u8; 32]);
        rand::fill(secret.as_mut_slice()).map_err(|_unspecified| NoRandomness)?;
        Ok(Self { id: random_id()?, secret, pin })
    }
    /// Public part: may be logged, lists show it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
    /// SHA-256 of the SubjectPublicKeyInfo of the fleet's anchor.
    #[must_use]
    pub fn pin(&self) -> &[u8; 32] {
        &self.pin
    }
    /// The secret as it stands in the token, 43 characters of base64url: what is sent to the federator once its pin is
    /// proven.
    #[must_use]
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()))
    }
    /// The whole token, wiped after use: for the one who asked for it, and nobody else.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let (secret, pin) = (self.secret_text(), URL_SAFE_NO_PAD.encode(self.pin));
        Zeroizing::new(format!("{PREFIX}.{}.{}.{pin}", self.id, secret.as_str()))
    }
    /// What is stored: SHA-256 of the secret.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(self.secret.as_slice())
    }
}

/// SHA-256 of the secret that a joiner sent as text; none when the text is no secret.
#[must_use]
pub fn hash_of_secret_text(text: &str) -> Option<[u8; 32]> {
    let secret = Zeroizing::new(decode(text)?);
    Some(sha256(secret.as_slice()))
}

/// Whether two hashes of secrets are the same; takes the same time either way.
#[must_use]
pub fn same_hash(a: &[u8; 32], b: &[u8; 32]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

impl FromStr for Token {
    type Err = InvalidToken;
    /// Parses a token, exactly: the newline of a token file is the reader's to cut.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.len() != TOKEN_LEN {
            return Err(InvalidToken);
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [PREFIX, id, secret, pin] = parts.as_slice() else { return Err(InvalidToken) };
        if !is_id(id) {
            return Err(InvalidToken);
        }
        let secret = Zeroizing::new(decode(secret).ok_or(InvalidToken)?);
        Ok(Self { id: (*id).to_owned(), secret, pin: decode(pin).ok_or(InvalidToken)? })
    }
}
