//! Edge. All sockets of the process: the agent's listeners, the proxy's own ports, and `addresses.json` about them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::files;
use meshfed_runtime::listen::{Addresses, BindError, ListenFlag, Published, bind_flag, bind_tcp, forget};
use meshfed_runtime::readiness::Guard;
use tokio::sync::watch;

use crate::admin::Admin;
use crate::config::{Config, OwnListeners};
use crate::discovery::Sockets;
use crate::listen::Listeners;
use crate::state::{Listener, ListenerCell};

/// Default ports (`design.md` 6).
const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READY_PORT: u16 = 15021;

/// The sockets of the process.
#[derive(Debug)]
pub(super) struct ProcessSockets {
    own: OwnListeners,
    bind: Vec<IpAddr>,
    run_dir: Option<PathBuf>,
    admin: Admin,
    listeners: Listeners,
    own_addresses: Addresses,
    published: Option<Published>,
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
        admin: Admin,
        listeners: Listeners,
        guard: Guard,
        drain: Watch,
    ) -> Result<Self, Problems> {
        // Of an earlier run: until something is bound, nobody listens anywhere.
        if let Some(Err(error)) = config.run_dir.as_deref().map(forget) {
            tracing::warn!(error = %meshfed_runtime::telemetry::chain(&error), "an old addresses.json cannot be removed");
        }
        let mut this = Self {
            own: config.own.clone(),
            bind: config.bind.clone(),
            run_dir: config.run_dir.clone(),
            admin,
            listeners,
            own_addresses: Addresses::new(),
            published: None,
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
        let Some(dir) = &self.run_dir else { return };
        let mut addresses = self.own_addresses.clone();
        self.listeners.addresses(&mut addresses);
        let written = files::create_dir(dir, files::MODE_RUN_DIR).and_then(|()| addresses.write(dir));
        match written {
            Ok(published) => self.published = Some(published),
            Err(error) => {
                tracing::error!(error = %meshfed_runtime::telemetry::chain(&error), "addresses.json cannot be written");
            }
        }
    }
}

impl Sockets for ProcessSockets {
    fn install(&mut self, cell: &Arc<ListenerCell>, listener: &Arc<Listener>) -> Result<(), Vec<BindError>> {
        self.listeners.install(cell, listener)
    }
    fn remove(&mut self, name: &str) {
        self.listeners.remove(name);
    }
    fn started(&mut self, bind: &[IpAddr]) -> Result<(), Problems> {
        let bind = if self.bind.is_empty() { bind.to_vec() } else { self.bind.clone() };
        let mut problems = Problems::new();
        let loopback = bind.iter().copied().find(IpAddr::is_loopback).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let own = self.own.clone();
        let admin = self.bind_own("admin", "--admin-listen", &own.admin, &[loopback], ADMIN_PORT, &mut problems);
        let metrics = self.bind_own("metrics", "--metrics-listen", &own.metrics, &bind, METRICS_PORT, &mut problems);
        if !self.ready_is_bound {
            self.serve_ready(&bind, &mut problems);
        }
        problems.finish(())?;
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
