//! Edge. All sockets of the process: the agent's listeners, the proxy's own ports, and `addresses.json` about them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::listen::{Addresses, BindError, ListenFlag, bind_flag, bind_tcp, check, check_flag};
use meshfed_runtime::readiness::Guard;
use tokio::sync::watch;

use super::run_dir::RunDir;
use crate::admin::Admin;
use crate::config::{Capture, Config, DnsConfig, Mode, OwnListeners};
use crate::discovery::Sockets;
use crate::listen::Listeners;
use crate::state::{Listener, ListenerCell};

/// Default ports (`design.md` 6).
const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READY_PORT: u16 = 15021;
const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;

/// Notes every address in use among those that the flags alone tell. None of them is bound before attestation, readiness
/// excepted, and none is left bound by this: what is wrong is told at once, and not address by address as they are needed.
pub(super) fn check_known(config: &Config, problems: &mut Problems) {
    let (own, bind) = (&config.own, &config.bind);
    let mut wrong: Vec<BindError> = Vec::new();
    let mut own_port = |flag: &str, given: &[ListenFlag], hosts: &[IpAddr], port: u16| {
        wrong.extend(given.iter().flat_map(|at| check_flag(flag, at)));
        if given.is_empty() {
            wrong.extend(hosts.iter().filter_map(|ip| check(flag, SocketAddr::new(*ip, port)).err()));
        }
    };
    let admin_host: Vec<IpAddr> = if bind.is_empty() { Vec::new() } else { vec![admin_host(bind)] };
    own_port("--ready-listen", &own.ready, bind, READY_PORT);
    own_port("--metrics-listen", &own.metrics, bind, METRICS_PORT);
    own_port("--admin-listen", &own.admin, &admin_host, ADMIN_PORT);
    if config.mode == Mode::Sidecar && !config.listen.contains_key("outbound") {
        own_port("--outbound-listen", &[], bind, OUTBOUND_PORT);
    }
    if config.capture == Capture::Redirect && !config.listen.contains_key("inbound") {
        own_port("--inbound-listen", &[], bind, INBOUND_PORT);
    }
    let mut addresses = |flag: &str, of: &mut dyn Iterator<Item = SocketAddr>| {
        wrong.extend(of.filter_map(|address| check(flag, address).err()));
    };
    for (key, flag) in
        [("outbound", "--outbound-listen"), ("inbound", "--inbound-listen"), ("gateway", "--gateway-listen")]
    {
        addresses(flag, &mut config.listen.get(key).into_iter().flatten().copied());
    }
    addresses("--outbound", &mut config.outbound.keys().copied());
    wrong.iter().for_each(|error| error.note(problems));
}

/// Where the admin port is by default: on a loopback address among these, else on 127.0.0.1.
fn admin_host(bind: &[IpAddr]) -> IpAddr {
    bind.iter().copied().find(IpAddr::is_loopback).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The sockets of the process.
#[derive(Debug)]
pub(super) struct ProcessSockets {
    own: OwnListeners,
    bind: Vec<IpAddr>,
    dns: DnsConfig,
    run_dir: Option<RunDir>,
    admin: Admin,
    listeners: Listeners,
    own_addresses: Addresses,
    guard: Option<Guard>,
    drain: Watch,
    started: watch::Sender<bool>,
    ready_is_bound: bool,
}

impl ProcessSockets {
    /// Before attestation only readiness is bound, and that only where a flag names the host.
    ///
    /// # Errors
    /// When that address cannot be had.
    pub(super) fn new(
        config: &Config,
        run_dir: Option<RunDir>,
        admin: Admin,
        listeners: Listeners,
        guard: Guard,
        drain: Watch,
    ) -> Result<Self, Problems> {
        let mut this = Self {
            own: config.own.clone(),
            bind: config.bind.clone(),
            dns: config.dns.clone(),
            run_dir,
            admin,
            listeners,
            own_addresses: Addresses::new(),
            guard: Some(guard),
            drain,
            started: watch::Sender::new(false),
            ready_is_bound: false,
        };
        if !this.own.ready.is_empty() || !this.bind.is_empty() {
            let bind = this.bind.clone();
            let mut problems = Problems::new();
            this.serve_ready(&bind, &mut problems);
            problems.finish(())?;
            this.write_addresses();
        }
        Ok(this)
    }

    /// Becomes true when the first listeners stand.
    #[must_use]
    pub(super) fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }

    fn serve_ready(&mut self, bind: &[IpAddr], problems: &mut Problems) {
        let sockets = self.bind_own("ready", "--ready-listen", &self.own.ready.clone(), bind, READY_PORT, problems);
        self.admin.serve_ready(sockets, &self.drain);
        self.ready_is_bound = true;
    }

    fn bind_own(
        &mut self,
        key: &'static str,
        flag: &str,
        given: &[ListenFlag],
        bind: &[IpAddr],
        port: u16,
        problems: &mut Problems,
    ) -> Vec<TcpListener> {
        let results: Vec<Result<Vec<TcpListener>, BindError>> = if given.is_empty() {
            bind.iter().map(|ip| bind_tcp(flag, SocketAddr::new(*ip, port)).map(|s| vec![s])).collect()
        } else {
            given.iter().map(|f| bind_flag(flag, f)).collect()
        };
        let mut sockets = Vec::new();
        for result in results {
            match result {
                Ok(bound) => sockets.extend(bound),
                Err(error) => error.note(problems),
            }
        }
        for socket in &sockets {
            if let Err(error) = self.own_addresses.add(key, socket) {
                tracing::warn!(%error, key, "a socket does not tell its address");
            }
        }
        sockets
    }

    fn write_addresses(&mut self) {
        let Some(run_dir) = &mut self.run_dir else { return };
        let mut addresses = self.own_addresses.clone();
        self.listeners.addresses(&mut addresses);
        run_dir.write(&addresses);
    }
}

impl Sockets for ProcessSockets {
    fn install(&mut self, cell: &Arc<ListenerCell>, listener: &Arc<Listener>) -> Result<(), Vec<BindError>> {
        self.listeners.install(cell, listener)
    }
    fn remove(&mut self, name: &str) {
        self.listeners.remove(name);
    }
    fn started(&mut self, bind: &[IpAddr], mut problems: Problems) -> Result<(), Problems> {
        let bind = if self.bind.is_empty() { bind.to_vec() } else { self.bind.clone() };
        let admin_host = [admin_host(&bind)];
        let own = self.own.clone();
        let admin = self.bind_own("admin", "--admin-listen", &own.admin, &admin_host, ADMIN_PORT, &mut problems);
        let metrics = self.bind_own("metrics", "--metrics-listen", &own.metrics, &bind, METRICS_PORT, &mut problems);
        let names = super::names::bind(&self.dns, &mut self.own_addresses, &mut problems);
        if !self.ready_is_bound {
            self.serve_ready(&bind, &mut problems);
        }
        if let Some(run_dir) = &mut self.run_dir {
            run_dir.check(&mut problems);
        }
        problems.finish(())?;
        super::names::serve(names, &self.admin.state, &self.drain);
        self.admin.serve_admin(admin, self.drain.clone());
        self.admin.serve_metrics(metrics, &self.drain);
        self.write_addresses();
        if let Some(guard) = self.guard.take() {
            guard.ready();
        }
        self.started.send_replace(true);
        Ok(())
    }
    fn changed(&mut self) {
        if *self.started.borrow() {
            self.write_addresses();
        }
    }
}
