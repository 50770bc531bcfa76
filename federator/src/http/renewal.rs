//! Edge. Credentials that are made anew: `meshfed credential reset` writes them, a running federator takes them up
//! within a second, and from then on refuses the old token.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meshfed_ca::keys::SigningKey;
use meshfed_runtime::telemetry::chain;
use meshfed_runtime::{drain, files, tasks};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::credentials::{self, ADMIN_TOKEN, CA, CA_KEY, CredentialError, Credentials, ensure};

/// How often a running federator looks whether its credentials were renewed.
const PERIOD: Duration = Duration::from_secs(1);

/// What was renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The files with the new credentials.
    pub files: Vec<PathBuf>,
}

/// Makes token, CA key and CA certificate of a federator's data directory anew, and `admin.yaml` with them.
///
/// The token goes first, since it is what lets people in. Whatever file a crash stops at, the rest is complete for
/// [`ensure`]: a key without its certificate is certified again.
///
/// # Errors
/// [`CredentialError::NoFederator`] when the directory is none of a federator; nothing is written then.
pub fn reset(data_dir: &Path) -> Result<Renewed, CredentialError> {
    if !data_dir.join(ADMIN_TOKEN).exists() && !data_dir.join("registry.redb").exists() {
        return Err(CredentialError::NoFederator(data_dir.to_owned()));
    }
    let _locked = credentials::lock(data_dir)?;
    let key = SigningKey::generate()?;
    credentials::write_token(&data_dir.join(ADMIN_TOKEN))?;
    files::remove(&data_dir.join(CA))?;
    files::write_secret(&data_dir.join(CA_KEY), key.to_pkcs8_pem().as_bytes())?;
    credentials::complete(data_dir, &[], &[])?;
    Ok(Renewed { files: [ADMIN_TOKEN, "admin.yaml", CA].map(|name| data_dir.join(name)).to_vec() })
}

/// What the HTTP API runs with at the moment.
#[derive(Debug)]
pub struct Standing {
    data_dir: PathBuf,
    listen: Vec<SocketAddr>,
    sans: Vec<String>,
    token: watch::Sender<[u8; 32]>,
    tls: watch::Sender<Arc<ServerConfig>>,
    seen: Option<Seen>,
}

/// Inode and time of each file: a file that is replaced as a whole has another inode.
type Seen = [(u64, i64, i64); 3];

fn look(data_dir: &Path) -> Option<Seen> {
    let mut seen = Seen::default();
    for (place, name) in seen.iter_mut().zip([ADMIN_TOKEN, CA_KEY, CA]) {
        let found = std::fs::metadata(data_dir.join(name)).ok()?;
        *place = (found.ino(), found.mtime(), found.mtime_nsec());
    }
    Some(seen)
}

impl Standing {
    /// Begins with the credentials of the start; `listen` and `sans` as for [`ensure`].
    #[must_use]
    pub fn new(data_dir: &Path, listen: Vec<SocketAddr>, sans: Vec<String>, now: &Credentials) -> Self {
        Self {
            seen: look(data_dir),
            data_dir: data_dir.to_owned(),
            listen,
            sans,
            token: watch::Sender::new(now.token_sha256()),
            tls: watch::Sender::new(now.server_config()),
        }
    }
    /// SHA-256 of the administrator's token.
    #[must_use]
    pub fn token(&self) -> watch::Receiver<[u8; 32]> {
        self.token.subscribe()
    }
    /// How connections are made from now on.
    #[must_use]
    pub fn tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.tls.subscribe()
    }

    /// Takes up what was renewed. A file that is missing or damaged changes nothing: what stood stands.
    fn take_up(&mut self) {
        let Some(seen) = look(&self.data_dir).filter(|seen| Some(*seen) != self.seen) else { return };
        match ensure(&self.data_dir, &self.listen, &self.sans) {
            Ok(renewed) => {
                self.token.send_replace(renewed.token_sha256());
                self.tls.send_replace(renewed.server_config());
                tracing::info!("the API's credentials were renewed; the old token is refused from now on");
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the API's new credentials cannot be used; the old ones stay")
            }
        }
        // Also after a failure: what does not change is not tried again every second.
        self.seen = Some(seen);
    }
}

/// Follows the credential files until the drain.
///
/// # Errors
/// When the look at them panicked.
pub async fn follow(mut standing: Standing, drain: drain::Watch) -> Result<(), tokio::task::JoinError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = drain.signaled() => return Ok(()),
        }
        let look = move || {
            standing.take_up();
            standing
        };
        standing = tasks::spawn_blocking("credentials", look).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    /// Mutation seen to fail: `write_token` left out of `reset`; `take_up` without `send_replace` of the token.
    #[test]
    fn a_reset_renews_everything_and_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let refused = reset(dir.path()).unwrap_err();
        assert!(matches!(refused, CredentialError::NoFederator(_)), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written where no federator is");
        let listen = vec!["127.0.0.1:4001".parse().unwrap()];
        let first = ensure(dir.path(), &listen, &[]).unwrap();
        let mut standing = Standing::new(dir.path(), listen, vec![], &first);
        let (token, tls) = (standing.token(), standing.tls());
        let before = [ADMIN_TOKEN, CA_KEY, CA, "admin.yaml"].map(|name| text(dir.path(), name));
        standing.take_up();
        assert_eq!((*token.borrow(), token.has_changed().unwrap()), (first.token_sha256(), false));
        reset(dir.path()).unwrap();
        let after = [ADMIN_TOKEN, CA_KEY, CA, "admin.yaml"].map(|name| text(dir.path(), name));
        assert!(before.iter().zip(&after).all(|(before, after)| before != after));
        assert!(after[3].starts_with("server: \"https://127.0.0.1:4001\"\n"), "the address stays: {}", after[3]);
        assert!(after[3].contains(&after[0]));
        standing.take_up();
        assert_eq!(*token.borrow(), meshfed_ca::keys::sha256(after[0].as_bytes()));
        assert!(tls.has_changed().unwrap());
        // Damaged: what stood stays, and a whole set is taken up later.
        std::fs::write(dir.path().join(ADMIN_TOKEN), "short").unwrap();
        let held = *token.borrow();
        standing.take_up();
        assert_eq!(*token.borrow(), held);
        reset(dir.path()).unwrap();
        standing.take_up();
        assert_ne!(*token.borrow(), held);
    }
}
