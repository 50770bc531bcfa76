use super::super::Index;
use super::super::tests::{Setup, group, service};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {selector: {app: b}, ports: [{name: http, port: 8080, targetPort: 9090}]}\n---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: b, namespace: shop}\n";

/// The cluster as its API server shows it: node `n<i>` with pod `b-<i>`, each with what is said of it.
struct Cluster(Setup);

impl Cluster {
    /// All is well.
    fn of(nodes: usize) -> Self {
        let mut cluster = Self(Setup::new());
        cluster.0.write("s.yaml", SERVICE);
        for n in 1..=nodes {
            cluster.node(n, "True");
            cluster.pod(n, "True", "True");
            cluster.slice(n, true);
        }
        cluster
    }
    fn node(&mut self, n: usize, ready: &str) {
        self.nodes(&[(n, ready)]);
    }
    /// In one update.
    fn nodes(&mut self, all: &[(usize, &str)]) {
        let one = |(n, ready): &(usize, &str)| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: n{n}}}\nstatus: {{conditions: [{{type: MemoryPressure, status: 'False'}}, {{type: Ready, status: '{ready}'}}]}}\n---\n"
            )
        };
        let file = all.iter().map(|(n, _)| n.to_string()).collect::<String>();
        for (n, _) in all.iter().filter(|_| all.len() > 1) {
            self.0.remove(&format!("n{n}.yaml"));
        }
        self.0.write(&format!("n{file}.yaml"), &all.iter().map(one).collect::<String>());
    }
    fn pod(&mut self, n: usize, containers: &str, ready: &str) {
        self.pod_with(
            n,
            &format!("{{type: ContainersReady, status: '{containers}'}}, {{type: Ready, status: '{ready}'}}"),
            "",
        );
    }
    fn pod_with(&mut self, n: usize, conditions: &str, spec: &str) {
        self.0.write(
            &format!("p{n}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: b-{n}, namespace: shop, uid: u-{n}, labels: {{app: b}}, annotations: {{federation.meshfed.io/status: '{{}}'}}}}\nspec: {{serviceAccountName: b, nodeName: n{n}{spec}}}\nstatus: {{phase: Running, podIP: 10.0.0.{n}, conditions: [{conditions}]}}\n"
            ),
        );
    }
    fn slice(&mut self, n: usize, ready: bool) {
        self.0.write(
            &format!("e{n}.yaml"),
            &format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: b-{n}, namespace: shop, labels: {{kubernetes.io/service-name: b}}}}\naddressType: IPv4\nports: [{{name: http, port: 9090}}]\nendpoints: [{{addresses: [10.0.0.{n}], targetRef: {{kind: Pod, name: b-{n}}}, conditions: {{ready: {ready}, serving: {ready}, terminating: false}}}}]\n"
            ),
        );
    }
    /// What the controllers write of a node that they do not hear.
    fn mark(&mut self, n: usize) {
        self.pod(n, "True", "False");
        self.slice(n, false);
    }
    /// What a kubelet that is back writes, and the controllers after it.
    fn mend(&mut self, n: usize) {
        self.node(n, "True");
        self.pod(n, "True", "True");
        self.slice(n, true);
    }
    /// The numbers of the pods that get requests.
    fn ready(&self) -> String {
        ready(&self.0.index)
    }
}

fn ready(index: &Index) -> String {
    let endpoints = &index.service(&service("shop/b")).unwrap().endpoints;
    let ready = endpoints.iter().filter(|(_, all)| all.iter().any(|e| e.ready));
    ready.map(|(key, _)| key.name.trim_start_matches("b-").to_owned()).collect()
}

/// An API server that was away longer than its controllers wait: they take every node for gone, and every pod for unready,
/// until the kubelets are back, one after the other. The pods get requests all the while, and others are told so.
///
/// Mutations seen to fail: `self.silent` of `spares` answered `false`; `NodeHealth::Well => true` made `false`;
/// `unheard.saturating_mul(2) > all` made `false`; `if self.silent` of `hear_pod` made `if false`; `extend(marked…)` left
/// out; `is_spared && …` left out of `endpoint_listed`.
#[test]
fn a_cluster_whose_nodes_are_all_unheard_has_lost_none_of_them() {
    // Pods are marked before their nodes, after them, or between.
    for order in ["pods first", "nodes first", "one by one"] {
        let mut c = Cluster::of(3);
        for n in 1..=3 {
            match order {
                "pods first" => c.mark(n),
                "nodes first" => c.node(n, "Unknown"),
                _ => {
                    c.node(n, "Unknown");
                    c.mark(n);
                }
            }
        }
        for n in 1..=3 {
            match order {
                "pods first" => c.node(n, "Unknown"),
                "nodes first" => c.mark(n),
                _ => {}
            }
        }
        assert_eq!((c.ready().as_str(), c.0.index.is_silent()), ("123", true), "{order}");
        assert_eq!(group(&c.0.index, "shop/b", "net-east", "eu").map(|g| g.0), Some(3), "{order}");
        // The first kubelet is back, and has not written its pods.
        c.node(1, "True");
        assert_eq!((c.ready().as_str(), c.0.index.is_silent()), ("123", true), "{order}");
        c.node(2, "True");
        assert_eq!(
            (c.ready().as_str(), c.0.index.is_silent()),
            ("12", false),
            "{order}: most are back, the third is not"
        );
        // The pod is written before its slice.
        c.pod(1, "True", "True");
        assert_eq!(c.ready(), "12", "{order}");
        c.mend(1);
        c.node(3, "True");
        assert_eq!(c.ready(), "123", "{order}: back, and yet to write");
        c.mend(2);
        c.mend(3);
        assert_eq!(c.ready(), "123", "{order}");
        // From now on a node that is not heard of has failed, and its pods stay unready until somebody writes of them.
        c.node(1, "Unknown");
        c.mark(1);
        assert_eq!(c.ready(), "23", "{order}");
        c.node(1, "True");
        assert_eq!(c.ready(), "23", "{order}: it may have started anew");
        c.mend(1);
        assert_eq!(c.ready(), "123", "{order}");
    }
}

/// A part of the nodes that is not heard of has failed, however large it is, and whoever is told of first.
///
/// Mutations seen to fail: `unheard == all` made `unheard.saturating_mul(2) > all`; `hear_nodes` called in `put_node`.
#[test]
fn nodes_that_fail_while_another_is_heard_have_failed() {
    let mut c = Cluster::of(3);
    for n in [1, 2] {
        c.node(n, "Unknown");
        c.mark(n);
    }
    assert_eq!(c.ready(), "3");
    // The same, all at once: an agent that has just started.
    let mut c = Cluster::of(0);
    c.0.write("s.yaml", SERVICE);
    for n in [1, 2] {
        c.mark(n);
    }
    c.pod(3, "True", "True");
    c.slice(3, true);
    c.nodes(&[(1, "Unknown"), (2, "Unknown"), (3, "True")]);
    assert_eq!(c.ready(), "3");
}

/// In a silence only what the kubelet itself said counts: containers, and gates of readiness (KEP-580).
///
/// Mutations seen to fail: `gates.all(is_true)` left out of `read_pod`; `NodeHealth::Unwell => false` made `true`;
/// `endpoint.terminating && !endpoint.ready` left out of `endpoint_listed`.
#[test]
fn what_its_kubelet_called_unready_stays_so() {
    let mut c = Cluster::of(4);
    for n in 1..=4 {
        c.mark(n);
        c.node(n, "Unknown");
    }
    assert_eq!(c.ready(), "1234");
    c.pod(1, "False", "False");
    assert_eq!(c.ready(), "234");
    let gate = ", readinessGates: [{conditionType: example.com/gate}]";
    let conditions = "{type: ContainersReady, status: 'True'}, {type: Ready, status: 'False'}";
    c.pod_with(2, conditions, gate);
    assert_eq!(c.ready(), "34");
    c.pod_with(2, &format!("{conditions}, {{type: example.com/gate, status: 'True'}}"), gate);
    assert_eq!(c.ready(), "234");
    c.node(3, "False");
    assert_eq!((c.ready().as_str(), c.0.index.is_silent()), ("24", true), "its own kubelet says that it is unwell");
    c.0.write(
        "e4.yaml",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: b-4, namespace: shop, labels: {kubernetes.io/service-name: b}}\naddressType: IPv4\nports: [{name: http, port: 9090}]\nendpoints: [{addresses: [10.0.0.4], targetRef: {kind: Pod, name: b-4}, conditions: {ready: false, serving: true, terminating: true}}]\n",
    );
    assert_eq!(c.ready(), "2", "it ends");
}
