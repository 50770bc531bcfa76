//! Edge. A fleet under test: a federator and clusters, each part its own process of the built binary.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::binary::meshfed;
use crate::process::{Output, Process, run};
use crate::wait::until;

/// How long a fleet may take to come up.
pub const READY: Duration = Duration::from_secs(90);

/// A loopback range `127.N.0.0/16` that nothing else on this machine uses while it is held.
pub struct Range {
    octet: u8,
}

static TAKEN: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());

impl Range {
    /// Takes a free range.
    ///
    /// # Panics
    /// When none is free.
    #[must_use]
    pub fn take() -> Self {
        Self::take_of(10..=60)
    }
    /// Takes a free range whose second octet is one of these.
    ///
    /// # Panics
    /// When none is free.
    #[must_use]
    pub fn take_of(octets: std::ops::RangeInclusive<u8>) -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |octet: &u8| {
            !taken.contains(octet)
                && [(1, 15443), (1, 15012), (10, 15001), (10, 8080), (11, 8080)]
                    .iter()
                    .all(|(last, port)| TcpListener::bind((Ipv4Addr::new(127, *octet, 0, *last), *port)).is_ok())
        };
        let octet = octets.into_iter().find(free).expect("a free loopback range");
        taken.insert(octet);
        Self { octet }
    }
    /// The range `127.OCTET.0.0/16`, which the caller knows to be nobody else's.
    #[must_use]
    pub const fn at(octet: u8) -> Self {
        Self { octet }
    }
    /// An address of the range.
    #[must_use]
    pub fn host(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.octet, 0, last).into()
    }
    /// The range as CIDR.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("127.{}.0.0/16", self.octet)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.octet);
    }
}

/// Where a process runs: on this machine as it is, or in a network namespace.
pub type Place<'a> = Option<&'a crate::netns::Namespace>;

/// A command of the binary at a place.
#[must_use]
pub fn command(place: Place<'_>) -> Command {
    match place {
        None => Command::new(meshfed()),
        Some(namespace) => namespace.command(meshfed()),
    }
}

/// A federator with its data directory, and the directory that holds everything of the test.
pub struct Fleet {
    /// Everything of the test; removed with it.
    pub dir: tempfile::TempDir,
    federator: Option<Process>,
    listen: Vec<String>,
    http: String,
}

impl Fleet {
    /// Starts a federator on free loopback ports.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(None, "127.0.0.1", &[])
    }

    /// Starts a federator at a place; gRPC on `host`, with more flags.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_at(place: Place<'_>, host: &str, flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("mf").tempdir().expect("temporary directory");
        let mut fleet =
            Self { dir, federator: None, listen: vec![format!("{host}:0")], http: "127.0.0.1:0".to_owned() };
        fleet.start_federator(place, flags);
        fleet
    }

    /// Starts the federator (again): the second time on the ports it had.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_federator(&mut self, place: Place<'_>, flags: &[&str]) {
        let mut start = command(place);
        start.args(["federator", "--data-dir"]).arg(self.path("federator")).args(["--fleet", "mesh.example"]);
        for listen in &self.listen {
            start.args(["--grpc-listen", listen]);
        }
        start.args(["--http-listen", &self.http, "--admin-listen", "127.0.0.1:0"]).args(flags);
        let _first_start = std::fs::remove_file(self.path("federator/run/addresses.json"));
        let mut process = Process::start("federator", &self.path("logs"), &mut start);
        until("the federator is ready", Duration::from_secs(60), || {
            process.assert_alive();
            let admin = self.addresses("federator").and_then(|a| first(&a, "admin")).ok_or("no address yet")?;
            self.ready_at(place, &admin)
        });
        self.listen = vec![self.address("federator", "grpc")];
        self.http = self.address("federator", "http");
        self.federator = Some(process);
    }

    fn ready_at(&self, place: Place<'_>, admin: &str) -> Result<(), String> {
        let Some(namespace) = place else {
            let answer = crate::http::get(admin.parse().map_err(|_e| "address")?, "/readyz")?;
            return if answer.status == 200 { Ok(()) } else { Err(answer.body) };
        };
        let url = format!("http://{admin}/readyz");
        let output = run(namespace.command(Path::new("curl")).args(["-fsS", "--max-time", "2", &url]));
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    }

    /// The federator's process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn federator(&mut self) -> &mut Process {
        self.federator.as_mut().expect("the federator runs")
    }
    /// A path in the test's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// What a daemon wrote into its `addresses.json`.
    #[must_use]
    pub fn addresses(&self, data_dir: &str) -> Option<Value> {
        let text = std::fs::read(self.path(data_dir).join("run/addresses.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }
    /// The admin address of a daemon, once it has told it.
    #[must_use]
    pub fn admin(&self, data_dir: &str) -> Option<SocketAddr> {
        first(&self.addresses(data_dir)?, "admin")?.parse().ok()
    }
    /// The first address of a kind.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn address(&self, data_dir: &str, key: &str) -> String {
        self.addresses(data_dir)
            .and_then(|a| first(&a, key))
            .unwrap_or_else(|| panic!("{data_dir} has no {key} address"))
    }
    /// `https://HOST:PORT` of the federator's gRPC port.
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("https://{}", self.address("federator", "grpc"))
    }

    /// A command with the federator's credentials.
    #[must_use]
    pub fn cli(&self, place: Place<'_>, args: &[&str]) -> Output {
        run(command(place).args(args).env("MESHFED_CONFIG", self.path("federator/admin.yaml")))
    }

    /// GETs an API path with the admin token, over curl and the API's own CA: another client than ours.
    #[must_use]
    pub fn curl_api(&self, path: &str) -> Output {
        let token = std::fs::read_to_string(self.path("federator/admin.token")).expect("admin.token");
        let url = format!("https://{}/api/v1/{path}", self.address("federator", "http"));
        run(Command::new("curl")
            .args(["-sS", "--max-time", "10", "--cacert"])
            .arg(self.path("federator/api-ca.pem"))
            .args(["-H", &format!("Authorization: Bearer {}", token.trim()), &url]))
    }

    /// Makes a token; gives the path of its file.
    #[must_use]
    pub fn token(&self, place: Place<'_>, cluster: &str, flags: &[&str]) -> PathBuf {
        let args = [&["token", "create", "--cluster", cluster], flags].concat();
        let token = self.cli(place, &args).ok("token create");
        let file = self.path(&format!("{cluster}.token"));
        std::fs::write(&file, token).expect("token file");
        file
    }

    /// Joins a directory with a token file.
    #[must_use]
    pub fn join(&self, place: Place<'_>, token: &Path, data_dir: &str) -> Output {
        run(command(place)
            .args(["join", &self.grpc(), "--token-file"])
            .arg(token)
            .arg("--data-dir")
            .arg(self.path(data_dir)))
    }

    /// Waits until the fleet is ready.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_ready(&self, place: Place<'_>) {
        let output = self.cli(place, &["status", "--wait", "--timeout", &format!("{}s", READY.as_secs())]);
        assert_eq!(output.code, 0, "the fleet is not ready: {}{}{}", output.stdout, output.stderr, self.tails());
    }

    /// The end of every log, for a test that failed.
    fn tails(&self) -> String {
        let logs = std::fs::read_dir(self.path("logs")).into_iter().flatten().flatten().map(|e| e.path());
        logs.fold(String::new(), |mut text, log| {
            let all = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n");
            text.push_str(&format!("\n--- {}\n{tail}\n", log.display()));
            text
        })
    }

    /// What a client of `from` is handed, as the API says.
    ///
    /// # Panics
    /// When the API does not answer JSON.
    #[must_use]
    pub fn endpoints(&self, place: Place<'_>, service: &str, from: &str) -> Value {
        let output = self.cli(place, &["endpoints", service, "--from", from, "-o", "json"]);
        serde_json::from_str(&output.ok("endpoints")).expect("JSON")
    }
}

fn first(addresses: &Value, key: &str) -> Option<String> {
    Some(addresses.get(key)?.get(0)?.as_str()?.to_owned())
}

/// A joined cluster with its agent running.
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its agent.
    pub agent: Process,
    source: PathBuf,
    socket: PathBuf,
    logs: PathBuf,
    data_dir: PathBuf,
}

/// How a cluster is made.
pub struct ClusterSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// `NET[=CIDR,…]`, the first its default.
    pub networks: &'a [String],
    /// Its region; its zone is `<region>-1`.
    pub region: &'a str,
    /// The host of its agent.
    pub bind: IpAddr,
    /// The text of its objects.
    pub objects: String,
}

impl Cluster {
    /// Makes a token, joins, and starts the agent.
    #[must_use]
    pub fn start(fleet: &Fleet, hub: Place<'_>, place: Place<'_>, spec: &ClusterSpec<'_>) -> Self {
        let zones = [format!("{}-1", spec.region), format!("{}-2", spec.region)];
        let mut flags = vec!["--region", spec.region, "--zone", &zones[0], "--zone", &zones[1]];
        for network in spec.networks {
            flags.extend(["--network", network]);
        }
        let token = fleet.token(hub, spec.name, &flags);
        let _joined = fleet.join(place, &token, spec.name).ok("join");
        let source = fleet.path(&format!("fleet-{}", spec.name));
        std::fs::create_dir_all(&source).expect("source directory");
        std::fs::write(source.join("objects.yaml"), &spec.objects).expect("objects");
        Self::restart(fleet, place, spec.name, spec.bind)
    }

    /// Starts the agent of a cluster that has joined.
    #[must_use]
    pub fn restart(fleet: &Fleet, place: Place<'_>, name: &str, bind: IpAddr) -> Self {
        Self::restart_with(fleet, place, name, bind, &[])
    }

    /// Starts the agent of a cluster that has joined, with more flags.
    #[must_use]
    pub fn restart_with(fleet: &Fleet, place: Place<'_>, name: &str, bind: IpAddr, flags: &[&str]) -> Self {
        let (data_dir, source) = (fleet.path(name), fleet.path(&format!("fleet-{name}")));
        let mut start = command(place);
        start.args(["agent", "--data-dir"]).arg(&data_dir).arg("--source").arg(format!("dir:{}", source.display()));
        start.args(["--bind", &bind.to_string()]).args(flags);
        let agent = Process::start(&format!("{name}-agent"), &fleet.path("logs"), &mut start);
        let socket = data_dir.join("run/xds.sock");
        Self { name: name.to_owned(), agent, source, socket, logs: fleet.path("logs"), data_dir }
    }

    /// The Unix socket of its agent.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
    /// Its objects' directory.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Replaces a file of its objects, atomically as git does.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) {
        let temporary = self.source.join(format!(".{file}.new"));
        std::fs::write(&temporary, text).expect("objects");
        std::fs::rename(&temporary, self.source.join(file)).expect("objects");
    }

    /// Starts a proxy of one of its workloads.
    #[must_use]
    pub fn proxy(&self, place: Place<'_>, workload: &str, flags: &[&str]) -> Process {
        let name = format!("{}-{}", self.name, workload.replace('/', "-"));
        let run_dir = self.data_dir.with_file_name(format!("run-{name}"));
        let mut start = command(place);
        start.args(["proxy", "--agent"]).arg(format!("unix:{}", self.socket.display()));
        start.args(["--workload", workload, "--run-dir"]).arg(run_dir).args(flags);
        Process::start(&name, &self.logs, &mut start)
    }
}

/// The sample application as the service behind a sidecar.
#[must_use]
pub fn application(fleet: &Fleet, place: Place<'_>, cluster: &str, service: &str, listen: SocketAddr) -> Process {
    let mut start = command(place);
    start.args(["reactor", "--listen", &listen.to_string(), "--service", service, "--cluster", cluster]);
    start.args(["--zone", "z", "--instance", &format!("{service}-{cluster}")]);
    Process::start(&format!("{cluster}-{service}-app"), &fleet.path("logs"), &mut start)
}
