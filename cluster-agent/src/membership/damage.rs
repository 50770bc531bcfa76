//! Pure. Which file of a member cannot be used: what lies in a Secret can be edited, or be half of a backup.

use meshfed_ca::keys::SigningKey;
use meshfed_ca::pem;
use meshfed_runtime::tls::Identity;
use zeroize::Zeroizing;

use super::identity::{AGENT_FILE, CA_KEY, Files};
use crate::enroll::AgentFile;
use crate::identity::Authority;

/// The anchor of the CA key.
const CA_ANCHOR: &str = "ca/anchor.pem";

/// A file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    /// The file, by its path below the data directory.
    pub(super) file: &'static str,
    /// What is wrong with it.
    pub(super) why: String,
}

/// The CA of a cluster that has left.
pub struct KeptCa {
    /// Its key, PKCS#8 PEM.
    pub key_pem: Zeroizing<String>,
    /// Its anchor, DER.
    pub anchor: Vec<u8>,
}

fn text<'a>(files: &'a Files, file: &'static str) -> Result<&'a str, Damage> {
    let bytes = files.get(file).ok_or_else(|| Damage { file, why: "it is missing".to_owned() })?;
    std::str::from_utf8(bytes).map_err(|_binary| Damage { file, why: "it is no text".to_owned() })
}

/// What is damaged of a member's files; none: an agent can run with them.
pub(super) fn of_member(files: &Files) -> Option<Damage> {
    member(files).err()
}

/// What is damaged of the CA that a cluster keeps which has left; none: a join can go on with it.
pub(super) fn of_ca(files: &Files) -> Option<Damage> {
    ca(files).err()
}

/// That CA.
pub(super) fn ca(files: &Files) -> Result<KeptCa, Damage> {
    let _key = key(files, CA_KEY)?;
    Ok(KeptCa { key_pem: Zeroizing::new(text(files, CA_KEY)?.to_owned()), anchor: anchor(files)? })
}

/// Whether these files hold a CA key.
pub(super) fn has_ca_key(files: &Files) -> bool {
    key(files, CA_KEY).is_ok()
}

fn key(files: &Files, file: &'static str) -> Result<SigningKey, Damage> {
    SigningKey::from_pkcs8_pem(text(files, file)?)
        .map_err(|error| Damage { file, why: format!("it holds no private key: {error}") })
}

fn anchor(files: &Files) -> Result<Vec<u8>, Damage> {
    let damage = |why| Damage { file: CA_ANCHOR, why };
    let mut all = pem::certificates(text(files, CA_ANCHOR)?).map_err(|error| damage(error.to_string()))?;
    match (all.pop(), all.pop()) {
        (Some(anchor), None) => Ok(anchor.to_vec()),
        _ => Err(damage("it does not hold exactly one certificate".to_owned())),
    }
}

fn member(files: &Files) -> Result<(), Damage> {
    let agent = AgentFile::parse(text(files, AGENT_FILE)?).map_err(|why| Damage { file: AGENT_FILE, why })?;
    let _key = key(files, CA_KEY)?;
    let authority = Authority::new(text(files, CA_KEY)?, anchor(files)?, agent.trust_domain);
    let _authority =
        authority.map_err(|error| Damage { file: CA_ANCHOR, why: meshfed_runtime::telemetry::chain_of(&error) })?;
    let (certificate, own) = ("identity/cert.pem", key(files, "identity/key.pem")?);
    let damage = |why: String| Damage { file: certificate, why };
    let chain = pem::certificates(text(files, certificate)?).map_err(|error| damage(error.to_string()))?;
    let _identity = Identity::new(chain, own.to_private_key_der()).map_err(|error| damage(error.to_string()))?;
    Ok(())
}
