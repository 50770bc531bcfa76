//! Edge. The federator's flags, all errors at once (`contracts.md` 1.2, 1.3).

use std::path::{Path, PathBuf};
use std::time::Duration;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::config::Problems;
use meshfed_runtime::listen::ListenFlag;
use meshfed_runtime::telemetry::LogFormat;

use crate::members::RegistryError;
use crate::source::Place;

/// Default of `--grpc-listen`.
const GRPC: &str = "0.0.0.0:15600";
/// Default of `--http-listen`.
const HTTP: &str = "127.0.0.1:15680";
/// Default of `--admin-listen`.
const ADMIN: &str = "127.0.0.1:15690";

/// `meshfed federator`.
#[derive(Debug, Clone, clap::Args)]
pub struct FederatorArgs {
    /// Where the federator keeps its registry, keys and credentials
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The fleet's domain, say mesh.example; needed at the first start
    #[arg(long, value_name = "DOMAIN")]
    pub fleet: Option<String>,
    /// Where agents and joiners connect, several times [default: 0.0.0.0:15600]
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_listen: Vec<ListenFlag>,
    /// The HTTP API (always HTTPS), several times [default: 127.0.0.1:15680]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub http_listen: Vec<ListenFlag>,
    /// Health, metrics and debug pages, several times [default: 127.0.0.1:15690]; other than loopback addresses show
    /// health and metrics only
    #[arg(long, value_name = "HOST:PORT|off")]
    pub admin_listen: Vec<ListenFlag>,
    /// An address at which agents reach this federator, several times [default: where it listens]; needed when it
    /// listens on all addresses and agents are on other machines
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// Fleet-wide objects, which bind every cluster: FailoverPolicy, ExportPolicy and Mesh, from the files below PATH; or from
    /// the API server, the policies in the hub's namespace, and Cluster, too
    #[arg(long, value_name = "dir:PATH|kubernetes")]
    pub source: Option<String>,
    /// With --source kubernetes or --admin-secret: the kubeconfig [default: KUBECONFIG, ~/.kube/config, the pod's account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// With --source kubernetes or --admin-secret: a context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// With --source kubernetes or --admin-secret: the hub's namespace, whose policies are the fleet's
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "meshfed-hub")]
    pub namespace: String,
    /// Where the registry is stored (etcd is not in this version)
    #[arg(long, value_name = "redb|etcd:URL", default_value = "redb")]
    pub store: String,
    /// One more name or address in the HTTP API's certificate, several times
    #[arg(long, value_name = "NAME")]
    pub http_san: Vec<String>,
    /// On Kubernetes: the Secret of the hub's namespace into which the administrator's credentials are put for people outside
    #[arg(long, value_name = "NAME", env = "MESHFED_ADMIN_SECRET")]
    pub admin_secret: Option<String>,
    /// With --admin-secret: the server that it names, https://HOST:PORT [default: that of admin.yaml]
    #[arg(long, value_name = "URL", env = "MESHFED_ADMIN_SERVER", requires = "admin_secret")]
    pub admin_server: Option<String>,
    /// The root's key where it is not kept in the data directory
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// Time for streams to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = drain_timeout)]
    pub drain_timeout: Duration,
    /// Form of the logs on stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or directives such as info,meshfed_federator=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let signed = crate::duration::parse(text).map_err(|e| e.to_string())?;
    Duration::try_from(signed).map_err(|_negative| "a duration is not negative".to_owned())
}

/// Everything a federator needs to be built.
#[derive(Debug)]
pub struct Config {
    /// The flags.
    pub args: FederatorArgs,
    /// `--fleet`.
    pub fleet: Option<TrustDomain>,
    /// Where agents and joiners connect.
    pub grpc: Vec<ListenFlag>,
    /// The HTTP API.
    pub http: Vec<ListenFlag>,
    /// The admin port.
    pub admin: Vec<ListenFlag>,
    /// The directory of fleet-wide objects.
    pub source: Option<Place>,
}

fn or_default(given: &[ListenFlag], default: &str) -> Vec<ListenFlag> {
    if given.is_empty() { default.parse().into_iter().collect() } else { given.to_vec() }
}

impl Config {
    /// Checks the flags.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn load(args: FederatorArgs) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        if args.store != "redb" {
            problems.flag("MF0201", "--store", "only redb, the embedded store, is in this version");
        }
        let source = args.source.as_deref().and_then(|text| match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => {
                // Later a directory may be away for a while: what was read before stands, and the fault is told.
                if !Path::new(path).is_dir() && !args.data_dir.join("state").exists() {
                    problems.file("MF0214", path, "is no directory; --source dir:PATH names one");
                }
                Some(Place::Directory(PathBuf::from(path)))
            }
            _ if text == "kubernetes" => Some(Place::ApiServer {
                kubeconfig: args.kubeconfig.clone(),
                context: args.context.clone(),
                namespace: args.namespace.clone(),
            }),
            _ => {
                problems.flag("MF0202", "--source", format!("'{text}' is neither dir:PATH nor kubernetes"));
                None
            }
        });
        if args.grpc_listen.contains(&ListenFlag::Off) {
            problems.flag("MF0203", "--grpc-listen", "cannot be off: agents connect there");
        }
        for advertised in &args.advertise {
            let port = advertised.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if !port.is_some_and(|(host, port)| !host.is_empty() && port > 0) {
                problems.flag("MF0204", "--advertise", format!("'{advertised}' is not HOST:PORT"));
            }
        }
        if let Some(key) = args.root_key.as_ref().filter(|key| !key.is_file()) {
            let text = "is no file; --root-key names the root's private key, PEM in PKCS#8, or is left out";
            problems.file("MF0215", key.display().to_string(), text);
        }
        for san in args.http_san.iter().filter(|san| !crate::http::is_san(san)) {
            problems.flag("MF0216", "--http-san", format!("'{san}' is neither a DNS name nor an IP address"));
        }
        if let Some(server) = args.admin_server.as_ref().filter(|server| !crate::admin_secret::is_server(server)) {
            problems.flag("MF0217", "--admin-server", format!("'{server}' is not https://HOST:PORT"));
        }
        let fleet = args.fleet.as_ref().and_then(|text| match TrustDomain::new(text) {
            Ok(fleet) => Some(fleet),
            Err(error) => {
                problems.flag("MF0205", "--fleet", error.to_string());
                None
            }
        });
        // Before anything is made: a first start without a fleet leaves nothing behind.
        let known = ["registry.redb", "node-id"].iter().any(|name| args.data_dir.join(name).exists());
        if args.fleet.is_none() && !known {
            problems.flag("MF0209", "--fleet", RegistryError::NoFleet.to_string());
        }
        let config = Self {
            fleet,
            grpc: or_default(&args.grpc_listen, GRPC),
            http: or_default(&args.http_listen, HTTP),
            admin: or_default(&args.admin_listen, ADMIN),
            source,
            args,
        };
        problems.finish(config)
    }

    /// What `/debug/config` shows; no secrets.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        let flags = |all: &[ListenFlag]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        serde_json::json!({
            "dataDir": self.args.data_dir, "fleet": self.fleet, "store": self.args.store,
            "grpcListen": flags(&self.grpc), "httpListen": flags(&self.http), "adminListen": flags(&self.admin),
            "advertise": self.args.advertise, "httpSan": self.args.http_san, "source": self.source.as_ref().map(ToString::to_string),
            "drainTimeout": format!("{:?}", self.args.drain_timeout),
        })
    }
}
