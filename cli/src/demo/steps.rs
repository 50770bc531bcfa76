//! Edge. The steps of the demo: `start join cross-cluster unknown-sni replayed-token cleanup`.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use meshfed_runtime::drain::Signals;
use meshfed_runtime::listen::ListenFlag;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Options;
use super::fleet::{self, Claimed, GATEWAY_PORT, SERVICE_PORT};
use super::processes::Processes;
use crate::exit::{FAILED, Failure, Outcome};
use crate::output::print;

/// How long the fleet may take to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(45);
/// How long one `status --wait` may take before it is looked whether all processes live.
const STATUS_TIMEOUT: &str = "2s";
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(50);
/// The TLS alert for a name that the gateway does not serve (RFC 6066).
const UNRECOGNIZED_NAME: u8 = 112;
/// The namespace of the sample application.
const NAMESPACE: &str = "shop";

/// A running demo.
pub struct Demo {
    /// Where its files are.
    pub root: PathBuf,
    /// Whether they go at the end.
    pub temporary: bool,
    /// Its clusters.
    claimed: Claimed,
    /// Its processes.
    pub processes: Processes,
    listen: SocketAddr,
    /// Keeps `listen` for the sample application until that is started.
    front: Option<std::net::TcpListener>,
}

impl Demo {
    /// Picks addresses and makes the directory; starts nothing.
    pub fn new(options: Options) -> Result<Self, Failure> {
        let front = listen(&options.listen)?;
        Ok(Self::with_front(options, front)?)
    }

    fn with_front(options: Options, front: std::net::TcpListener) -> anyhow::Result<Self> {
        // Port 0 takes a free one: the one that everything after this names.
        let listen = front.local_addr()?;
        let claimed = fleet::clusters()?;
        let temporary = options.dir.is_none();
        let root = fleet::root(options.dir, &claimed.clusters)?;
        Ok(Self { temporary, claimed, processes: Processes::new(&root)?, root, listen, front: Some(front) })
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }
    /// The credentials of the demo's federator.
    pub fn config(&self) -> PathBuf {
        self.root.join("federator/admin.yaml")
    }
    /// Where the sample application answers.
    pub fn front(&self) -> String {
        format!("http://{}/", self.listen)
    }

    /// An address that a daemon wrote into its `addresses.json`.
    fn address(&self, data_dir: &str, key: &str) -> anyhow::Result<String> {
        let file = self.root.join(data_dir).join("run/addresses.json");
        let text = std::fs::read(&file).with_context(|| format!("{} is not there", file.display()))?;
        let body: Value = serde_json::from_slice(&text)?;
        let address = body.get(key).and_then(|a| a.get(0)).and_then(Value::as_str);
        Ok(address.with_context(|| format!("{} names no {key}", file.display()))?.to_owned())
    }

    /// Starts the federator and writes the clusters' objects.
    pub async fn start(&mut self) -> anyhow::Result<String> {
        for cluster in &self.claimed.clusters {
            fleet::write_objects(&self.root, cluster)?;
        }
        let listen = "127.0.0.1:0";
        let args = words(&["federator", "--data-dir", &self.path("federator"), "--fleet", "mesh.example"]);
        let ports = words(&["--grpc-listen", listen, "--http-listen", listen, "--admin-listen", listen]);
        self.processes.start("federator", &[args, ports].concat())?;
        self.until("the federator", Duration::from_secs(15), async |demo: &Self| {
            let admin = demo.address("federator", "admin")?;
            let (status, body) = http_get(&format!("http://{admin}/readyz")).await?;
            ensure!(status == 200, "{}", body.trim());
            Ok(())
        })
        .await?;
        Ok(format!("a federator with an embedded store, HTTP API at https://{}", self.address("federator", "http")?))
    }

    /// Joins three clusters and starts their agents, gateways, sidecars and applications.
    pub async fn join(&mut self) -> anyhow::Result<String> {
        let grpc = format!("https://{}", self.address("federator", "grpc")?);
        let config = self.config();
        for i in 0..self.claimed.clusters.len() {
            let Some(cluster) = self.claimed.clusters.get(i) else { break };
            let network = format!("{}={}", cluster.network(), cluster.cidr());
            let create = words(&[
                "token",
                "create",
                "--cluster",
                cluster.name,
                "--network",
                &network,
                "--region",
                cluster.region,
                "--zone",
                cluster.zone,
            ]);
            let token = self.expect_ok(&create, Some(&config)).await?;
            let token_file = self.path(&format!("{}.token", cluster.name));
            meshfed_runtime::files::write_secret(Path::new(&token_file), token.as_bytes())?;
            let source = format!("dir:{}", self.path(&format!("fleet/{}", cluster.name)));
            let join = words(&["join", &grpc, "--token-file", &token_file, "--data-dir", &self.path(cluster.name)]);
            let plan = words(&["--plan", "--source", &source]);
            self.expect_ok(&[join.clone(), plan].concat(), None).await?;
            self.expect_ok(&join, None).await?;
            self.start_cluster(i, &source)?;
        }
        self.write_demo_json()?;
        let status = words(&["status", "--wait", "--timeout", STATUS_TIMEOUT]);
        self.until("the fleet", READY_TIMEOUT, async |demo: &Self| {
            demo.expect_ok(&status, Some(&config)).await.map(drop)
        })
        .await?;
        Ok(format!(
            "{} clusters on {} networks, {} processes",
            self.claimed.clusters.len(),
            self.claimed.clusters.len(),
            self.processes.count()
        ))
    }

    fn start_cluster(&mut self, index: usize, source: &str) -> anyhow::Result<()> {
        let Some(c) = self.claimed.clusters.get(index) else { return Ok(()) };
        let (host, dir) = (c.host().to_string(), self.path(c.name));
        let agent = format!("unix:{dir}/run/xds.sock");
        let run_dir = |what: &str| format!("{dir}-{what}");
        let inbound = format!("{SERVICE_PORT}={}", c.application());
        let identity = format!("spiffe://{}.mesh.example/ns/shop/sa/{}", c.name, c.service);
        let workload = c.workload_name();
        let mut reactor = words(&["reactor", "--listen", &c.application().to_string(), "--service", c.service]);
        reactor.extend(words(&[
            "--cluster",
            c.name,
            "--zone",
            c.zone,
            "--instance",
            &format!("{}-{}-1", c.service, c.name),
        ]));
        reactor.extend(words(&["--identity", &identity]));
        if index == 0 {
            reactor.extend(words(&["--listen", &self.listen.to_string()]));
        }
        if let Some(upstream) = c.upstream_authority() {
            reactor.extend(words(&["--upstream", &upstream, "--via", &c.outbound().to_string()]));
        }
        let name = c.name;
        let service = c.service;
        let agent_args = words(&["agent", "--data-dir", &dir, "--source", source, "--bind", &host]);
        let gateway =
            words(&["proxy", "--agent", &agent, "--workload", "meshfed-system/eastwest", "--mode", "gateway"]);
        let gateway = [gateway, words(&["--run-dir", &run_dir("gateway")])].concat();
        let sidecar = words(&["proxy", "--agent", &agent, "--workload", &workload, "--inbound", &inbound]);
        let sidecar = [sidecar, words(&["--run-dir", &run_dir(service)])].concat();
        self.processes.start(&format!("{name}-agent"), &agent_args)?;
        self.processes.start(&format!("{name}-gateway"), &gateway)?;
        if index == 0 {
            self.front = None;
        }
        self.processes.start(&format!("{name}-{service}-app"), &reactor)?;
        self.processes.start(&format!("{name}-{service}-sidecar"), &sidecar)?;
        Ok(())
    }

    fn write_demo_json(&self) -> anyhow::Result<()> {
        let clusters: Vec<Value> = self
            .claimed
            .clusters
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "region": c.region, "network": c.network(), "dataDir": self.path(c.name),
                    "source": self.path(&format!("fleet/{}", c.name)),
                    "clients": [{ "workload": c.workload_name(), "outbound": c.outbound().to_string() }],
                })
            })
            .collect();
        let body = json!({
            "mode": "loopback",
            "federator": {
                "http": format!("https://{}", self.address("federator", "http")?),
                "grpc": self.address("federator", "grpc")?, "config": self.config(),
            },
            "front": self.front(), "clusters": clusters,
        });
        std::fs::write(self.root.join("demo.json"), format!("{body:#}\n"))?;
        Ok(())
    }

    /// One request over a → b → c: who answered, and that it went through the gateways.
    pub async fn cross_cluster(&self) -> anyhow::Result<String> {
        let chain = self.request().await?;
        let names: Vec<String> = chain.iter().map(|hop| format!("{} in {}", hop.service, hop.cluster)).collect();
        ensure!(chain.len() == self.claimed.clusters.len(), "the chain is {}", names.join(" → "));
        for (hop, cluster) in chain.iter().zip(&self.claimed.clusters) {
            ensure!(hop.cluster == cluster.name, "{} answered from {}", hop.service, hop.cluster);
        }
        for pair in chain.windows(2) {
            let [caller, callee] = pair else { continue };
            ensure!(
                callee.peer_identity.as_deref() == caller.identity.as_deref() && caller.identity.is_some(),
                "{} saw peer {:?}, its caller is {:?}",
                callee.service,
                callee.peer_identity,
                caller.identity
            );
        }
        // The gateways are the demo's own and began at 0. A growth from reading to reading would prove less: who asked
        // the front before has left connections, and a request that takes one of those makes no new one.
        for (cluster, forwarded) in self.claimed.clusters.iter().zip(self.forwarded().await?).skip(1) {
            ensure!(forwarded > 0, "the gateway of {} forwarded nothing", cluster.name);
        }
        Ok(format!("{}, each hop over a gateway with mTLS end to end", names.join(" → ")))
    }

    /// Asks the front, and unfolds the chain of answers.
    pub async fn request(&self) -> anyhow::Result<Vec<Hop>> {
        let (status, body) = http_get(&self.front()).await?;
        ensure!(status == 200, "{} answered {status}: {}", self.front(), body.trim());
        let mut next: Value = serde_json::from_str(&body)?;
        let mut chain = Vec::new();
        while next.is_object() {
            let text = |key: &str| next.get(key).and_then(Value::as_str).map(str::to_owned);
            chain.push(Hop {
                service: text("service").unwrap_or_default(),
                cluster: text("cluster").unwrap_or_default(),
                zone: text("zone").unwrap_or_default(),
                identity: text("identity"),
                peer_identity: text("peerIdentity"),
            });
            next = next.get("upstream").cloned().unwrap_or_default();
        }
        Ok(chain)
    }

    /// Connections that each cluster's gateway has forwarded since it started.
    async fn forwarded(&self) -> anyhow::Result<Vec<u64>> {
        let mut counts = Vec::new();
        for cluster in &self.claimed.clusters {
            let (_, metrics) = http_get(&format!("http://{}/metrics", cluster.gateway_metrics())).await?;
            let count = metrics
                .lines()
                .filter(|l| l.starts_with("meshfed_gateway_connections_total{") && l.contains("result=\"forwarded\""))
                .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
            counts.push(count as u64);
        }
        Ok(counts)
    }

    /// A name that nobody exports: the gateway must refuse with the TLS alert.
    pub async fn unknown_sni(&self) -> anyhow::Result<String> {
        let gateway = self.claimed.clusters.get(1).context("no second cluster")?.gateway();
        let name = format!("outbound_.{SERVICE_PORT}_._.nope.{NAMESPACE}.svc.clusterset.local");
        let mut stream = tokio::net::TcpStream::connect(gateway).await?;
        stream.write_all(&client_hello(&name)?).await?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await.context("the gateway did not answer")??;
        ensure!(
            answer.first() == Some(&21) && answer.get(6) == Some(&UNRECOGNIZED_NAME),
            "the gateway answered {answer:02x?} instead of alert {UNRECOGNIZED_NAME}"
        );
        Ok(format!("127.x.x.x:{GATEWAY_PORT} refused {name} with alert {UNRECOGNIZED_NAME} (unrecognized_name)")
            .replace("127.x.x.x", &gateway.ip().to_string()))
    }

    /// A token that was used once: a second join must be refused and leave nothing.
    pub async fn replayed_token(&self) -> anyhow::Result<String> {
        let grpc = format!("https://{}", self.address("federator", "grpc")?);
        let token = self.path(&format!("{}.token", self.claimed.clusters.first().context("no cluster")?.name));
        let thief = self.path("thief");
        let join = words(&["join", &grpc, "--token-file", &token, "--data-dir", &thief]);
        let output = self.processes.run(&join, None).await?;
        ensure!(output.code == 1, "join with a used token exited {}: {}", output.code, output.stderr.trim());
        ensure!(!Path::new(&thief).exists(), "the refused join left {thief}");
        Ok("a used token was refused, and nothing was written".to_owned())
    }

    /// Stops everything, the last started first, and removes temporary files.
    pub async fn cleanup(&mut self) -> anyhow::Result<String> {
        let count = self.processes.count();
        let unwell = self.processes.stop().await;
        if self.temporary {
            std::fs::remove_dir_all(&self.root).with_context(|| format!("cannot remove {}", self.root.display()))?;
        }
        ensure!(unwell.is_empty(), "{}", unwell.join("; "));
        for cluster in &self.claimed.clusters {
            for address in [cluster.gateway(), cluster.outbound(), cluster.application()] {
                drop(std::net::TcpListener::bind(address).with_context(|| format!("{address} is still in use"))?);
            }
        }
        let drained = if count == 1 { "1 process drained".to_owned() } else { format!("{count} processes drained") };
        Ok(if self.temporary {
            format!("{drained}, no port and no file left")
        } else {
            format!("{drained}, no port left; the files stay in {}", self.root.display())
        })
    }

    /// Lets the files stay where the demo failed, and says where they tell why.
    pub fn keep_logs(&mut self) -> String {
        self.temporary = false;
        let root = self.root.display();
        format!("what each process said is in {root}/logs; read the last lines there, then remove {root} and try again")
    }

    async fn expect_ok(&self, args: &[String], config: Option<&Path>) -> anyhow::Result<String> {
        let output = self.processes.run(args, config).await?;
        let shown = args.iter().filter(|a| !a.starts_with('/')).take(4).cloned().collect::<Vec<_>>().join(" ");
        ensure!(
            output.code == 0,
            "'meshfed {shown} …' exited {}: {}{}",
            output.code,
            output.stdout,
            output.stderr.trim()
        );
        Ok(output.stdout)
    }

    /// Waits for a condition; fails at once when a process ends.
    async fn until(
        &mut self,
        what: &str,
        timeout: Duration,
        condition: impl AsyncFn(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            self.processes.all_alive()?;
            match condition(self).await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    bail!("{what} was not ready within {timeout:?}: {error:#}")
                }
                Err(_not_yet) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// One answer of the chain.
pub struct Hop {
    /// Which service answered.
    pub service: String,
    /// In which cluster.
    pub cluster: String,
    /// In which zone.
    pub zone: String,
    /// Who it is.
    pub identity: Option<String>,
    /// Who called it, as its proxy verified.
    pub peer_identity: Option<String>,
}

/// Walks the steps, a line each on stdout.
///
/// A step that an earlier one keeps from running fails, too: there is always one line per step, but when the check is
/// told to end.
pub async fn check(options: Options, mut stop: Signals) -> Outcome {
    let mut demo = match Demo::new(options) {
        Ok(demo) => demo,
        Err(failure) => {
            step("start", true, async { Err(anyhow::anyhow!(failure.message)) }).await;
            for name in ["join", "cross-cluster", "unknown-sni", "replayed-token"] {
                step(name, false, async { Ok(String::new()) }).await;
            }
            step("cleanup", true, async { Ok("nothing was started".to_owned()) }).await;
            return Ok(FAILED);
        }
    };
    let walked = tokio::select! {
        good = walk(&mut demo) => Some(good),
        () = stop.received() => None,
    };
    let advice = (walked == Some(false)).then(|| demo.keep_logs());
    let clean = step("cleanup", true, demo.cleanup()).await;
    match walked {
        Some(true) => Ok(if clean { 0 } else { FAILED }),
        Some(false) => Err(Failure::failed(format!("the demo failed: {}", advice.unwrap_or_default()))),
        None => Err(Failure::failed("told to stop before the last step")),
    }
}

async fn walk(demo: &mut Demo) -> bool {
    let mut good = step("start", true, demo.start()).await;
    good &= step("join", good, demo.join()).await;
    good &= step("cross-cluster", good, demo.cross_cluster()).await;
    good &= step("unknown-sni", good, demo.unknown_sni()).await;
    good &= step("replayed-token", good, demo.replayed_token()).await;
    good
}

async fn step(name: &str, reached: bool, work: impl Future<Output = anyhow::Result<String>>) -> bool {
    let start = meshfed_runtime::clock::instant();
    let result = if reached { work.await } else { Err(anyhow::anyhow!("not reached: an earlier step failed")) };
    let milliseconds = start.elapsed().as_millis();
    let (verdict, text) = match &result {
        Ok(text) => ("PASS", text.clone()),
        Err(error) => ("FAIL", format!("{error:#}").replace('\n', " ")),
    };
    print(&format!("{verdict} {name} {milliseconds} {text}\n"));
    result.is_ok()
}

/// Takes the address of the sample application; one that cannot be taken is bad input.
fn listen(at: &ListenFlag) -> Result<std::net::TcpListener, Failure> {
    let found = at.resolve().map_err(|error| {
        Failure::bad_input(format!("--listen {at} does not resolve ({error}): mend the host name, or write an address"))
    })?;
    std::net::TcpListener::bind(found.as_slice()).map_err(|error| {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is open")]
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => "stop what listens there, or name another",
            std::io::ErrorKind::AddrNotAvailable => "this host has no such address; name one of its own, or 127.0.0.1",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need root; name a higher one",
            _ => "name another",
        };
        Failure::bad_input(format!("--listen {at} cannot be used ({error}): {remedy}"))
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// The first flight of a TLS client that asks for `name`.
fn client_hello(name: &str) -> anyhow::Result<Vec<u8>> {
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from(name.to_owned())?;
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

/// A plain GET: status and body.
pub async fn http_get(url: &str) -> anyhow::Result<(u16, String)> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().context("no authority")?.to_string();
    let call = async {
        let mut stream = tokio::net::TcpStream::connect(&authority).await.with_context(|| authority.clone())?;
        let path = uri.path();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let (mut sender, connection) = (Vec::new(), &mut stream);
        connection.read_to_end(&mut sender).await?;
        anyhow::Ok(sender)
    };
    let answer = tokio::time::timeout(Duration::from_secs(15), call)
        .await
        .with_context(|| format!("{url} did not answer"))??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
    Ok((status, dechunk(head, body)))
}

/// Removes chunked framing where the answer has it.
fn dechunk(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(tail.get(..size).unwrap_or_default());
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    out
}
