//! What a node shows of itself: figures, and the checks behind `/livez` and `/readyz`.

use super::{
    APPLY_LAG_MAX, Arc, CATCHING_UP_MIN, Checks, Desk, Home, Instant, ListenerFigures, Metrics, Mutex, Node,
    NodePhase, Ops, Ordering, Population, Proposer, Role, figures, keepers, population, wiring,
};
use crate::observability::{channels, metrics::Sample};
use okno_domain::intake::Class;

impl Node {
    /// What is shown of this node.
    pub(super) fn ops(
        &self,
        mut metrics: Metrics,
        desk: &Arc<Desk>,
        listeners: [(&'static str, Arc<ListenerFigures>); 2],
    ) -> Arc<Ops> {
        self.add_sources(&mut metrics, desk, listeners);
        let found: Arc<Mutex<Population>> = Arc::default();
        // A quarantined node has no rows to count.
        if self.home.is_some() {
            let (query, stop) = (desk.query.clone(), self.stop.clone());
            self.tasks.spawn(population::count(query, "rows", population::look, found.clone(), stop));
            metrics.add_samples(Box::new(move || figures::population(&found.lock())));
            let found: Arc<Mutex<Vec<Sample>>> = Arc::default();
            let (query, stop) = (desk.query.clone(), self.stop.clone());
            self.tasks.spawn(population::count(query, "channels", channels::look, found.clone(), stop));
            metrics.add_samples(Box::new(move || found.lock().clone()));
            let traffic = desk.traffic.clone();
            metrics
                .add_samples(Box::new(move || channels::own(&traffic.attached(), &traffic.keeper.figures())));
            let connectors = self.connectors.clone();
            metrics.add_samples(Box::new(move || connectors.figures()));
        }
        Arc::new(Ops {
            node_id: self.settings.node.id,
            started: Instant::now(),
            metrics,
            live: self.live(),
            ready: self.ready(),
            alarms: self.alarms.clone(),
            logs: self.logs.clone(),
            settings: self.settings.to_toml(),
        })
    }

    fn ready(&self) -> Checks {
        let mut checks = Checks::default();
        let phases = self.cluster.phases();
        checks.add(
            "phase",
            Box::new(move || match &*phases.borrow() {
                NodePhase::Serving => Ok(()),
                other => Err(other.line()),
            }),
        );
        let stop = self.stop.clone();
        checks.add(
            "stopping",
            Box::new(move || if stop.is_cancelled() { Err("the node is going down".into()) } else { Ok(()) }),
        );
        let cluster = self.cluster.clone();
        checks.add(
            "leader",
            Box::new(move || match cluster.role().role {
                Role::Leader { ready: true } | Role::Follower { leader: Some(_) } => Ok(()),
                Role::Leader { ready: false } => Err("elected, not ready yet".into()),
                Role::Follower { leader: None } | Role::Candidate => Err("none is known".into()),
            }),
        );
        let cluster = self.cluster.clone();
        checks.add(
            "apply",
            Box::new(move || {
                let status = cluster.status();
                let lag = status.commit.saturating_sub(status.applied);
                if lag > APPLY_LAG_MAX { Err(format!("{lag} entries behind")) } else { Ok(()) }
            }),
        );
        let cluster = self.cluster.clone();
        checks.add(
            "caught-up",
            Box::new(move || {
                let status = cluster.status();
                let others = status.members.iter().filter(|member| member.id != status.node_id);
                let furthest = others.filter_map(|member| member.applied).max().unwrap_or(0);
                let behind = furthest.saturating_sub(status.applied);
                if behind > CATCHING_UP_MIN {
                    Err(format!("catching up: {behind} entries behind ({} of {furthest})", status.applied))
                } else {
                    Ok(())
                }
            }),
        );
        let intake = self.intake.clone();
        checks.add(
            "intake",
            Box::new(move || {
                intake.refuses_here(Class::New).map_or(Ok(()), |shut| Err(shut.cause.code().to_owned()))
            }),
        );
        let security = self.security.clone();
        checks.add(
            "security-log",
            Box::new(move || if security.is_failed() { Err("cannot be written".into()) } else { Ok(()) }),
        );
        checks
    }

    fn add_sources(
        &self,
        metrics: &mut Metrics,
        desk: &Arc<Desk>,
        listeners: [(&'static str, Arc<ListenerFigures>); 2],
    ) {
        let (cluster, seen) = (self.cluster.clone(), self.cluster.clone());
        metrics.add("cluster", Box::new(move || cluster.figures()));
        metrics.add_samples(Box::new(move || figures::cluster(&seen)));
        let started = Instant::now();
        metrics.add_samples(Box::new(move || figures::program(started)));
        if let Some(home) = self.home.clone() {
            let families = home.clone();
            metrics.add_samples(Box::new(move || figures::storage(&families.live())));
            metrics.add(
                "storage",
                Box::new(move || {
                    home.engine().stats().into_iter().map(|(name, value)| (name, value as f64)).collect()
                }),
            );
        }
        if let Some(backups) = self.backups.clone() {
            let archive = backups.clone();
            metrics.add("backup", Box::new(move || keepers::backups::backup_figures(&backups.figures())));
            metrics.add("archive", Box::new(move || keepers::backups::archive_figures(&archive.figures())));
        }
        let runtime = self.runtime.clone();
        metrics.add(
            "runtime",
            Box::new(move || {
                let runtime = runtime.lock();
                runtime
                    .as_ref()
                    .map(|runtime| wiring::runtime_figures(&runtime.figures()))
                    .unwrap_or_default()
            }),
        );
        let runtime = self.runtime.clone();
        metrics.add_samples(Box::new(move || {
            let runtime = runtime.lock();
            runtime
                .as_ref()
                .map(|runtime| figures::lateness(&runtime.figures().timers.late))
                .unwrap_or_default()
        }));
        let security = self.security.clone();
        metrics.add(
            "security",
            Box::new(move || {
                let (written, dropped) = security.figures();
                vec![
                    ("events_total", written as f64),
                    ("events_dropped_total", dropped as f64),
                    ("log_failed", f64::from(u8::from(security.is_failed()))),
                ]
            }),
        );
        if let Some(supplies) = &*self.supplies.lock() {
            metrics.add("power", Box::new(supplies.figures()));
        }
        let traces = self.traces.figures();
        metrics.add("traces", Box::new(move || traces.list()));
        let leases = desk.clone();
        metrics.add("workstations", Box::new(move || vec![("attached", leases.leases.count() as f64)]));
        let attendance = self.attendance.clone();
        metrics.add("attendance", Box::new(move || attendance.figures()));
        let boards = desk.clone();
        metrics.add("board", Box::new(move || boards.boards.figures()));
        let sides = self.sides.both();
        for ((name, figures), side) in listeners.into_iter().zip(sides) {
            metrics.add(
                name,
                Box::new(move || {
                    let count =
                        |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
                    vec![
                        ("connections", side.connections.count() as f64),
                        ("connections_total", count(&figures.accepted)),
                        ("handshakes_failed_total", count(&figures.handshakes_failed)),
                        ("connections_turned_away_total", count(&figures.turned_away)),
                        ("certificate_ends_seconds", side.in_force().material.not_after() as f64),
                    ]
                }),
            );
        }
    }

    fn live(&self) -> Checks {
        let mut checks = Checks::default();
        let life = self.life.clone();
        checks.add("threads", Box::new(move || life.check()));
        checks
    }
}
