//! Edge. Runs `nft`: one transaction, all or nothing.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};

/// The program: as `PATH` finds it, else where it is installed, which is often not in the `PATH` of others than root.
const NFT: [&str; 4] = ["nft", "/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
/// The bit of `CAP_NET_ADMIN` (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// Why the rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no program.
    #[error("there is no program 'nft' in PATH, /usr/sbin or /sbin; install nftables, or use the image, which has it")]
    Missing,
    /// Another user.
    #[error(
        "rules can be changed by root only, and this is uid {uid}; run it as root (in Kubernetes the init container alone)"
    )]
    NotRoot {
        /// The effective uid.
        uid: u32,
    },
    /// Root without the capability.
    #[error(
        "rules can be changed with CAP_NET_ADMIN only, which this process does not have; add NET_ADMIN to the container's capabilities"
    )]
    NoNetAdmin,
    /// It could not be started or spoken to.
    #[error("{program} cannot be run")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refused the rules; nothing was changed.
    #[error("nft refused the rules and changed nothing: {said}")]
    Refused {
        /// Its own words.
        said: String,
    },
}

/// Carries out a transaction.
///
/// # Errors
/// [`NftError`]; then everything is as it was.
pub fn run(transaction: &str) -> Result<(), NftError> {
    let uid = rustix::process::geteuid().as_raw();
    if uid != 0 {
        return Err(NftError::NotRoot { uid });
    }
    if !has_net_admin(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        return Err(NftError::NoNetAdmin);
    }
    let (mut child, program) = start()?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it does not read it refuses with words of its own, below.
        let _told_by_its_exit = stdin.write_all(transaction.as_bytes());
    }
    let ended = child.wait_with_output().map_err(|source| NftError::Run { program, source })?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    if said.contains("Operation not permitted") {
        return Err(NftError::NoNetAdmin);
    }
    Err(NftError::Refused { said: said.split_whitespace().collect::<Vec<_>>().join(" ") })
}

fn start() -> Result<(Child, &'static str), NftError> {
    for program in NFT {
        let mut command = Command::new(program);
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => return Ok((child, program)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NftError::Run { program, source }),
        }
    }
    Err(NftError::Missing)
}

/// Whether the effective capabilities in a `/proc/PID/status` hold `CAP_NET_ADMIN`. A system that does not say is asked by
/// trying.
fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_none_or(|all| all >> CAP_NET_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: bit 13.
    #[test]
    fn the_capability_is_read() {
        assert!(has_net_admin("Name:\tx\nCapEff:\t0000000000001000\n"));
        assert!(!has_net_admin("CapEff:\t000001ffffffefff\n"));
        assert!(has_net_admin(""));
    }
}
