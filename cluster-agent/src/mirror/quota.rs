//! Pure. How many imports each other cluster may cause here: in all, and in one namespace. Each import costs an object and an
//! address of this cluster, and who exports it decides how many there are.
//!
//! An import is charged to one of those that export it, the oldest export that has room; what this cluster exports itself is
//! charged to nobody. So no cluster takes the room of another one. What is imported stays, whoever comes and whatever the
//! limit is by now; of what waits, the first by name gets in where room comes.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::names::{ClusterName, Namespace, ServiceName};

/// Imports that one other cluster may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub per_cluster: usize,
    /// In one namespace.
    pub per_namespace: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_cluster: PER_CLUSTER, per_namespace: PER_NAMESPACE }
    }
}

/// Imports of one other cluster, where nobody says otherwise: less than half of the addresses of a small cluster (4,096).
pub const PER_CLUSTER: usize = 2000;
/// Imports of one other cluster in one namespace, where nobody says otherwise.
pub const PER_NAMESPACE: usize = 1000;
/// The highest limit: what the hub takes of one member.
pub const LIMIT_MAX: usize = 10_000;

/// Namespaces that a message names for one cluster, and clusters that it names.
const NAMED_MAX: usize = 5;

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Who exports it, the oldest export first; none: it is no import.
    pub exporters: &'a [ClusterName],
    /// Whether this cluster exports it itself.
    pub own: bool,
    /// Whether an object of it is there.
    pub held: bool,
}

#[derive(Debug, Default)]
struct Account {
    all: usize,
    namespaces: BTreeMap<Namespace, usize>,
    waiting: BTreeMap<Namespace, BTreeSet<ServiceName>>,
}

impl Account {
    fn is_empty(&self) -> bool {
        self.all == 0 && self.waiting.is_empty()
    }
    fn of(&self, namespace: &Namespace) -> usize {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }
    fn waits(&self) -> usize {
        self.waiting.values().map(BTreeSet::len).sum()
    }
}

/// Who has caused which imports, and what waits for room.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limits: Limits,
    charged: BTreeMap<ServiceName, ClusterName>,
    /// With those that export it.
    waiting: BTreeMap<ServiceName, Vec<ClusterName>>,
    accounts: BTreeMap<ClusterName, Account>,
}

impl Quota {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Forgets all: another has written meanwhile.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Whether an import may be there.
    pub(super) fn admits(&self, name: &ServiceName) -> bool {
        !self.waiting.contains_key(name)
    }

    /// Takes what is known of a name now; gives the names that get in because of it.
    pub(super) fn know(&mut self, name: &ServiceName, known: Known<'_>) -> Vec<ServiceName> {
        let Known { exporters, own, held } = known;
        let payer = self.charged.get(name);
        if payer.is_some_and(|payer| !own && exporters.contains(payer)) {
            return Vec::new();
        }
        let freed = self.charged.remove(name);
        if let Some(payer) = &freed {
            self.refund(payer, &name.namespace);
        }
        self.wait_no_longer(name);
        if !own && let Some(oldest) = exporters.first() {
            let able = exporters.iter().find(|cluster| self.has_room(cluster, &name.namespace));
            match able.or_else(|| (held || freed.is_some()).then_some(oldest)) {
                Some(cluster) => self.charge(name, cluster),
                None => self.wait(name, exporters),
            }
        }
        freed.map(|payer| self.let_in(&payer)).unwrap_or_default()
    }

    /// Names that wait, by the clusters that export them.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&ClusterName, usize)> {
        self.accounts.iter().map(|(cluster, account)| (cluster, account.waits())).filter(|(_, waits)| *waits > 0)
    }

    /// What is not imported, by whose exports, why, and what to do; none: all is.
    pub(super) fn words(&self) -> Option<String> {
        let over = || self.accounts.iter().filter(|(_, account)| !account.waiting.is_empty());
        let mut said: Vec<String> =
            over().take(NAMED_MAX).map(|(cluster, account)| self.one(cluster, account)).collect();
        let more = over().count().saturating_sub(NAMED_MAX);
        if more > 0 {
            said.push(format!("{more} more clusters export too much"));
        }
        (!said.is_empty()).then(|| {
            format!(
                "{}. What is imported stays, and of what waits the first by name follows. Raise the limit in the values of \
                 helm/meshfed-cluster, or have the exports taken back, or kept from this cluster by an ExportPolicy",
                said.join("; ")
            )
        })
    }

    fn one(&self, cluster: &ClusterName, account: &Account) -> String {
        let Limits { per_cluster, per_namespace } = self.limits;
        let waits = account.waits();
        let (services, are) = if waits == 1 { ("service", "is") } else { ("services", "are") };
        let mut named: Vec<String> = account
            .waiting
            .iter()
            .take(NAMED_MAX)
            .map(|(namespace, names)| format!("{namespace} ({})", names.len()))
            .collect();
        let more = account.waiting.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            named.push(format!("{more} more"));
        }
        let why = if account.all >= per_cluster {
            format!("of one other cluster at most {per_cluster} are (imports.perCluster)")
        } else {
            format!("of one other cluster at most {per_namespace} in a namespace are (imports.perNamespace)")
        };
        format!("{waits} {services} of cluster '{cluster}' {are} not imported into {}: {why}", named.join(", "))
    }

    fn has_room(&self, cluster: &ClusterName, namespace: &Namespace) -> bool {
        let (all, here) = self.accounts.get(cluster).map_or((0, 0), |account| (account.all, account.of(namespace)));
        all < self.limits.per_cluster && here < self.limits.per_namespace
    }

    fn charge(&mut self, name: &ServiceName, cluster: &ClusterName) {
        let account = self.accounts.entry(cluster.clone()).or_default();
        account.all += 1;
        *account.namespaces.entry(name.namespace.clone()).or_default() += 1;
        self.charged.insert(name.clone(), cluster.clone());
    }

    fn refund(&mut self, cluster: &ClusterName, namespace: &Namespace) {
        let Some(account) = self.accounts.get_mut(cluster) else { return };
        account.all = account.all.saturating_sub(1);
        let left = account.of(namespace).saturating_sub(1);
        if left == 0 {
            account.namespaces.remove(namespace);
        } else {
            account.namespaces.insert(namespace.clone(), left);
        }
        self.drop_empty(cluster);
    }

    fn wait(&mut self, name: &ServiceName, exporters: &[ClusterName]) {
        for cluster in exporters {
            let account = self.accounts.entry(cluster.clone()).or_default();
            account.waiting.entry(name.namespace.clone()).or_default().insert(name.clone());
        }
        self.waiting.insert(name.clone(), exporters.to_vec());
    }

    fn wait_no_longer(&mut self, name: &ServiceName) {
        for cluster in self.waiting.remove(name).unwrap_or_default() {
            let Some(account) = self.accounts.get_mut(&cluster) else { continue };
            if let Some(names) = account.waiting.get_mut(&name.namespace) {
                names.remove(name);
                if names.is_empty() {
                    account.waiting.remove(&name.namespace);
                }
            }
            self.drop_empty(&cluster);
        }
    }

    fn drop_empty(&mut self, cluster: &ClusterName) {
        if self.accounts.get(cluster).is_some_and(Account::is_empty) {
            self.accounts.remove(cluster);
        }
    }

    /// Lets in what waits, as far as the cluster has room now.
    fn let_in(&mut self, cluster: &ClusterName) -> Vec<ServiceName> {
        let mut let_in = Vec::new();
        while let Some(name) = self.first_with_room(cluster) {
            self.wait_no_longer(&name);
            self.charge(&name, cluster);
            let_in.push(name);
        }
        let_in
    }

    fn first_with_room(&self, cluster: &ClusterName) -> Option<ServiceName> {
        let account = self.accounts.get(cluster)?;
        let mut fitting = account.waiting.iter().filter(|(namespace, _)| self.has_room(cluster, namespace));
        fitting.next()?.1.first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }
    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    /// A quota of two imports of one cluster in a namespace, and three in all.
    struct World(Quota);

    impl World {
        fn new() -> Self {
            Self(Quota::new(Limits { per_cluster: 3, per_namespace: 2 }))
        }
        fn say(&mut self, service: &str, exporters: &[&str], own: bool, held: bool) -> Vec<String> {
            let exporters: Vec<ClusterName> = exporters.iter().map(|c| cluster(c)).collect();
            let let_in = self.0.know(&name(service), Known { exporters: &exporters, own, held });
            let_in.iter().map(ToString::to_string).collect()
        }
        /// Exported by these, and no object of it is there.
        fn new_of(&mut self, service: &str, exporters: &[&str]) -> bool {
            assert_eq!(self.say(service, exporters, false, false), Vec::<String>::new());
            self.0.admits(&name(service))
        }
        fn gone(&mut self, service: &str) -> Vec<String> {
            self.say(service, &[], false, false)
        }
    }

    /// Neither a namespace nor the cluster gets more than its limit of one other cluster, nobody takes the room of another,
    /// and where room comes the first by name gets in.
    ///
    /// Mutations seen to fail: `here < per_namespace` left out of `has_room`; `all < per_cluster` left out; `let_in` that
    /// does nothing; `refund` that does nothing.
    #[test]
    fn no_cluster_causes_more_than_its_limit() {
        let mut world = World::new();
        assert!(world.new_of("shop/a", &["west"]) && world.new_of("shop/b", &["west"]));
        assert!(!world.new_of("shop/d", &["west"]) && !world.new_of("shop/c", &["west"]));
        assert!(world.new_of("shop/e", &["north"]), "another cluster has its own room");
        assert!(world.new_of("bank/a", &["west"]));
        assert!(!world.new_of("bank/b", &["west"]), "three in all");
        assert_eq!(world.0.waiting().collect::<Vec<_>>(), [(&cluster("west"), 3)]);
        assert_eq!(world.gone("bank/a"), ["bank/b"]);
        assert_eq!(world.gone("shop/a"), ["shop/c"]);
        assert_eq!(world.gone("shop/d"), Vec::<String>::new(), "it waited, and leaves no room");
        assert_eq!(world.0.words(), None);
        for service in ["shop/b", "shop/c", "shop/e", "bank/b"] {
            assert_eq!(world.gone(service), Vec::<String>::new());
        }
        assert!(world.0.accounts.is_empty() && world.0.charged.is_empty() && world.0.waiting.is_empty());
    }

    /// Of several that export a name the oldest with room pays: one whose room is gone keeps the name of nobody else away.
    ///
    /// Mutation seen to fail: `exporters.iter().find` looks at the oldest alone.
    #[test]
    fn a_name_is_charged_to_who_has_room() {
        let mut world = World::new();
        assert!(world.new_of("shop/a", &["west"]) && world.new_of("shop/b", &["west"]));
        assert!(world.new_of("shop/pay", &["west", "north"]));
        assert_eq!(world.0.charged[&name("shop/pay")], cluster("north"));
        assert!(!world.new_of("shop/c", &["west"]));
        assert_eq!(world.say("shop/c", &["west", "south"], false, false), Vec::<String>::new());
        assert!(world.0.admits(&name("shop/c")), "somebody with room exports it, too");
    }

    /// What is imported stays: also over a limit that is lower by now, and when its payer takes its export back.
    ///
    /// Mutations seen to fail: `held` not asked; `freed.is_some()` not asked.
    #[test]
    fn what_is_imported_stays() {
        let mut world = World::new();
        for service in ["shop/x", "shop/y", "shop/z"] {
            assert_eq!(world.say(service, &["west"], false, true), Vec::<String>::new());
            assert!(world.0.admits(&name(service)));
        }
        assert!(!world.new_of("shop/a", &["west"]), "a newcomer is not before it");
        assert_eq!(world.gone("shop/x"), Vec::<String>::new(), "still as many as may be");
        assert_eq!(world.gone("shop/y"), ["shop/a"]);
        assert!(world.new_of("shop/q", &["north", "west"]));
        assert_eq!(world.say("shop/q", &["west"], false, false), Vec::<String>::new());
        assert!(world.0.admits(&name("shop/q")));
    }

    /// What this cluster exports itself is charged to nobody.
    ///
    /// Mutation seen to fail: `!own` left out of `know`, in either place.
    #[test]
    fn an_own_export_needs_no_room() {
        let mut world = World::new();
        assert!(world.new_of("shop/a", &["west"]) && world.new_of("shop/b", &["west"]));
        assert!(!world.new_of("shop/c", &["west"]));
        assert_eq!(world.say("shop/c", &["west", "own"], true, false), Vec::<String>::new());
        assert!(world.0.admits(&name("shop/c")));
        assert!(!world.new_of("shop/d", &["west"]));
        assert_eq!(world.say("shop/a", &["west", "own"], true, true), ["shop/d"]);
    }

    /// What is said names cluster, namespace, limit and setting, and is bounded.
    ///
    /// Mutation seen to fail: `take(NAMED_MAX)` left out of either place.
    #[test]
    fn what_waits_is_told_with_the_limit() {
        let mut world = World::new();
        for service in ["shop/a", "shop/b", "shop/c"] {
            world.new_of(service, &["west"]);
        }
        let said = world.0.words().unwrap();
        let wanted = "1 service of cluster 'west' is not imported into shop (1): of one other cluster at most 2 in a \
                      namespace are (imports.perNamespace). What is imported stays";
        assert!(said.starts_with(wanted), "{said}");
        world.new_of("bank/a", &["west"]);
        for n in 0..50 {
            world.new_of(&format!("n{n}/a"), &["west"]);
        }
        let said = world.0.words().unwrap();
        assert!(said.contains("at most 3 are (imports.perCluster)") && said.contains("46 more"), "{said}");
        for n in 0..9 {
            for service in ["a", "b", "c"] {
                world.new_of(&format!("t{n}/{service}"), &[&format!("c{n}")]);
            }
        }
        let said = world.0.words().unwrap();
        assert!(said.matches("of cluster '").count() == NAMED_MAX && said.contains("5 more clusters"), "{said}");
    }
}
