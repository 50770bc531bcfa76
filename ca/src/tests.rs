//! What is issued is what the templates say, and what is forged is refused.

mod authority;
mod issuance;
mod rollover;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::tls::{Role, SvidError, TrustStore, verify_svid};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::anchor;
use crate::keys::SigningKey;
use crate::token::{self, InvalidToken, Token};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

struct Ca {
    key: SigningKey,
    anchor: Vec<u8>,
    domain: TrustDomain,
}

fn ca(name: &str) -> Ca {
    let (key, domain) = (SigningKey::generate().unwrap(), domain(name));
    let anchor = anchor::self_signed(&key, &domain, now(), YEAR).unwrap();
    Ca { key, anchor, domain }
}

fn trust(cas: &[&Ca]) -> TrustStore {
    TrustStore::with(cas.iter().map(|c| (c.domain.clone(), vec![c.anchor.clone().into()])).collect()).unwrap()
}

fn verify(store: &TrustStore, leaf: &[u8], at: SystemTime) -> Result<SpiffeId, SvidError> {
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    verify_svid(&store.snapshot(), &CertificateDer::from(leaf), &[], Role::Client, at)
}

/// Mutation seen to fail: `is_id` takes upper-case letters; `decode` with a lenient engine.
#[test]
fn tokens_have_one_form() {
    let token = Token::generate([7; 32]).unwrap();
    let text = token.reveal();
    let parsed: Token = text.parse().unwrap();
    assert_eq!((parsed.id(), parsed.pin(), parsed.secret_hash()), (token.id(), &[7; 32], token.secret_hash()));
    assert_eq!(token::hash_of_secret_text(&token.secret_text()), Some(token.secret_hash()));
    assert!(token::same_hash(&token.secret_hash(), &parsed.secret_hash()));
    assert!(!token::same_hash(&token.secret_hash(), &[0; 32]));
    assert!(!format!("{token:?}").contains(token.secret_text().as_str()));
    assert!(format!("{token:?}").contains(token.id()));
    let parts: Vec<&str> = text.split('.').collect();
    let [prefix, id, secret, pin] = parts.as_slice() else { panic!("{text:?}") };
    assert_eq!((*prefix, id.len(), secret.len(), pin.len()), ("mf1", 10, 43, 43));
    // The last character of 43 carries two bits that must be 0: 'B' would be a second spelling of 'A'.
    let respelled = format!("mf1.{id}.{}B.{pin}", "A".repeat(42));
    assert!(format!("mf1.{id}.{}A.{pin}", "A".repeat(42)).parse::<Token>().is_ok());
    for bad in [
        String::new(),
        "mf1".to_owned(),
        format!("mf2.{id}.{secret}.{pin}"),
        format!("MF1.{id}.{secret}.{pin}"),
        format!("mf1.{}.{secret}.{pin}", id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A")),
        format!("mf1.{id}.{secret}"),
        format!("mf1.{id}.{secret}.{pin}."),
        format!("mf1.{id}.{secret}=.{pin}"),
        format!("mf1.{id}x.{secret}.{pin}"),
        format!("mf1.{}.{secret}.{pin}", &id[1..]),
        format!("mf1.{id}.{}.{pin}", "+".repeat(43)),
        format!("mf1.{id}.{}.{pin}", "é".repeat(21) + "a"),
        format!(" {}", *text),
        format!("{}\n", *text),
        "mf1.".repeat(10_000),
        respelled,
    ] {
        assert_eq!(bad.parse::<Token>().err(), Some(InvalidToken), "{bad}");
    }
    assert!(!InvalidToken.to_string().contains(*secret));
    let other = Token::generate([7; 32]).unwrap();
    assert_ne!((other.id(), other.secret_hash()), (token.id(), token.secret_hash()));
}
