//! Pure. The schema of every kind: its fields, and which of them this version uses.

use crate::object::Kind;
use crate::schema::Shape::{Any, Bool, Fields, Integer, IntegerOrText, List, OneOf, Open, PortMap, Text, TextMap};
use crate::schema::{Field, Shape, unused, used};

/// What a `kind:` (with its `apiVersion:`) is to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Served; `current` is false for an older API version that is accepted.
    Served {
        /// The kind.
        kind: Kind,
        /// Whether the API version is the one to write.
        current: bool,
    },
    /// `kind: List`.
    List,
    /// A kind that meshfed writes itself, or that is read elsewhere: left alone.
    Derived,
    /// Named by the design, not in this version.
    Later,
    /// A kind of ours in an API version that is not served.
    OtherVersion(Kind),
    /// Nothing we know.
    Unknown,
}

/// Kinds that the design names and that come with their own issues, with their API groups.
const LATER: &[(&str, &[&str])] = &[
    (
        "networking.istio.io",
        &[
            "DestinationRule",
            "VirtualService",
            "Gateway",
            "Sidecar",
            "ServiceEntry",
            "WorkloadGroup",
            "EnvoyFilter",
            "ProxyConfig",
        ],
    ),
    ("security.istio.io", &["AuthorizationPolicy", "RequestAuthentication"]),
    ("telemetry.istio.io", &["Telemetry"]),
    ("", &["Endpoints"]),
    ("federation.meshfed.io", &["Cluster", "Membership", "TrustDomain"]),
    ("gateway.networking.k8s.io", &["Gateway", "GatewayClass", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]),
];

/// What `apiVersion` and `kind` are to this version.
#[must_use]
pub fn known(api_version: &str, kind: &str) -> Known {
    if kind == "List" && api_version == "v1" {
        return Known::List;
    }
    // An import is what the hub makes of exports: written into the cluster, never read from it.
    if kind == "ServiceImport" && api_version.starts_with("multicluster.x-k8s.io/") {
        return Known::Derived;
    }
    let group = |v: &str| v.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    if let Some(served) =
        Kind::ALL.into_iter().find(|k| k.as_str() == kind && group(k.api_version()) == group(api_version))
    {
        let older = served == Kind::WorkloadEntry
            && matches!(api_version, "networking.istio.io/v1beta1" | "networking.istio.io/v1alpha3");
        return if served.api_version() == api_version || older {
            Known::Served { kind: served, current: !older }
        } else {
            Known::OtherVersion(served)
        };
    }
    let group = group(api_version);
    if LATER.iter().any(|(g, kinds)| *g == group && kinds.contains(&kind)) { Known::Later } else { Known::Unknown }
}

/// What an object of a kind may be, from the top.
#[must_use]
pub const fn shape_of(kind: Kind) -> Shape {
    match kind {
        Kind::Namespace => Fields(NAMESPACE),
        Kind::Service => Fields(SERVICE),
        Kind::WorkloadEntry => Fields(WORKLOAD_ENTRY),
        Kind::ServiceExport => Fields(SERVICE_EXPORT),
        Kind::ExportPolicy => Fields(EXPORT_POLICY),
        Kind::FailoverPolicy => Fields(FAILOVER_POLICY),
        Kind::PeerAuthentication => Fields(PEER_AUTHENTICATION),
        Kind::Mesh => Fields(MESH),
        Kind::EndpointSlice => Open(ENDPOINT_SLICE),
        Kind::Pod => Open(POD),
        Kind::Node => Open(NODE),
    }
}

/// The largest weight of a workload or tier item.
pub const WEIGHT_MAX: i64 = 1_000_000;

const METADATA: Shape = Fields(&[
    used("name", Text),
    used("namespace", Text),
    used("labels", TextMap),
    used("annotations", TextMap),
    unused("generateName", Text),
    unused("selfLink", Text),
    unused("uid", Text),
    unused("resourceVersion", Text),
    unused("generation", Integer(0, i64::MAX)),
    unused("creationTimestamp", Text),
    unused("deletionTimestamp", Text),
    unused("deletionGracePeriodSeconds", Integer(0, i64::MAX)),
    unused("ownerReferences", List(&Any)),
    unused("finalizers", List(&Text)),
    unused("managedFields", List(&Any)),
]);

/// The fields of a `List`.
pub const LIST: &[Field] =
    &[used("apiVersion", Text), used("kind", Text), used("items", List(&Any)), unused("metadata", Any)];

const NAMESPACE: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    unused("spec", Fields(&[unused("finalizers", List(&Text))])),
    unused("status", Fields(&[unused("phase", Text), unused("conditions", List(&Any))])),
];

const PROTOCOL: Shape = OneOf(&["TCP", "UDP", "SCTP"]);
const PORT: Shape = Integer(1, 65535);

const SERVICE: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used(
        "spec",
        Fields(&[
            used(
                "ports",
                List(&Fields(&[
                    used("name", Text),
                    used("protocol", PROTOCOL),
                    used("port", PORT),
                    used("targetPort", IntegerOrText),
                    used("appProtocol", Text),
                    unused("nodePort", Integer(0, 65535)),
                ])),
            ),
            used("selector", TextMap),
            used("clusterIP", Text),
            used("type", OneOf(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
            used("externalIPs", List(&Text)),
            unused("clusterIPs", List(&Text)),
            used("sessionAffinity", OneOf(&["None", "ClientIP"])),
            used(
                "sessionAffinityConfig",
                Fields(&[used("clientIP", Fields(&[used("timeoutSeconds", Integer(1, 86400))]))]),
            ),
            unused("loadBalancerIP", Text),
            unused("loadBalancerSourceRanges", List(&Text)),
            unused("loadBalancerClass", Text),
            unused("allocateLoadBalancerNodePorts", Bool),
            unused("externalName", Text),
            unused("externalTrafficPolicy", OneOf(&["Cluster", "Local"])),
            used("internalTrafficPolicy", OneOf(&["Cluster", "Local"])),
            unused("healthCheckNodePort", Integer(0, 65535)),
            unused("publishNotReadyAddresses", Bool),
            used("ipFamilies", List(&OneOf(&["IPv4", "IPv6"]))),
            unused("ipFamilyPolicy", OneOf(&["SingleStack", "PreferDualStack", "RequireDualStack"])),
            used("trafficDistribution", Text),
        ]),
    ),
    used(
        "status",
        Fields(&[
            used(
                "loadBalancer",
                Fields(&[used(
                    "ingress",
                    List(&Fields(&[
                        used("ip", Text),
                        used("hostname", Text),
                        unused("ipMode", Text),
                        unused("ports", List(&Any)),
                    ])),
                )]),
            ),
            unused("conditions", List(&Any)),
        ]),
    ),
];

const WORKLOAD_ENTRY: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used(
        "spec",
        Fields(&[
            used("address", Text),
            used("ports", PortMap),
            used("labels", TextMap),
            used("network", Text),
            used("locality", Text),
            used("weight", Integer(1, WEIGHT_MAX)),
            used("serviceAccount", Text),
        ]),
    ),
    unused("status", Any),
];

const SERVICE_EXPORT: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used("spec", Fields(&[used("exportedLabels", TextMap), used("exportedAnnotations", TextMap)])),
    unused("status", Fields(&[unused("conditions", List(&Any))])),
];

const EXPORT_POLICY: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used(
        "spec",
        Fields(&[
            used("services", List(&Fields(&[used("namespace", Text), used("name", Text)]))),
            used("to", Fields(&[used("clusters", List(&Text)), used("labels", TextMap)])),
        ]),
    ),
    unused("status", Any),
];

const FAILOVER_POLICY: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used(
        "spec",
        Fields(&[
            used(
                "targetRef",
                Fields(&[
                    used("kind", OneOf(&["Service"])),
                    used("name", Text),
                    used("namespace", Text),
                    used("group", OneOf(&[""])),
                ]),
            ),
            used(
                "tiers",
                List(&Fields(&[
                    used("name", Text),
                    used(
                        "select",
                        List(&Fields(&[
                            used("cluster", Text),
                            used("region", Text),
                            used("zone", Text),
                            used("relative", OneOf(&["sameCluster", "sameZone", "sameRegion", "any"])),
                            used("weight", Integer(1, WEIGHT_MAX)),
                        ])),
                    ),
                    used("minHealthyPercent", Integer(1, 100)),
                    used("minHealthyEndpoints", Integer(0, 1_000_000)),
                ])),
            ),
            used("holdDown", Text),
            used("rampUp", Text),
        ]),
    ),
    unused("status", Any),
];

const PEER_AUTHENTICATION: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used(
        "metadata",
        Fields(&[
            used("name", Text),
            used("namespace", Text),
            used("labels", TextMap),
            used("annotations", TextMap),
            used("creationTimestamp", Text),
            unused("generateName", Text),
            unused("uid", Text),
            unused("resourceVersion", Text),
            unused("generation", Integer(0, i64::MAX)),
            unused("ownerReferences", List(&Any)),
            unused("finalizers", List(&Text)),
            unused("managedFields", List(&Any)),
        ]),
    ),
    used(
        "spec",
        Fields(&[
            used("mtls", MTLS),
            // Both are remarked on where they are read.
            used("selector", Fields(&[used("matchLabels", TextMap)])),
            used("portLevelMtls", Any),
        ]),
    ),
    unused("status", Any),
];

const MTLS: Shape = Fields(&[used("mode", OneOf(&["UNSET", "STRICT", "PERMISSIVE", "DISABLE"]))]);

const MESH: &[Field] = &[
    used("apiVersion", Text),
    used("kind", Text),
    used("metadata", METADATA),
    used(
        "spec",
        Fields(&[
            used("outboundTrafficPolicy", OneOf(&["ALLOW_ANY", "REGISTRY_ONLY"])),
            used("clustersetDomain", Text),
            unused("sameness", OneOf(&["ON", "OFF"])),
            unused("retries", Any),
            unused("accessLog", Any),
            unused("trustDomainAliases", List(&Text)),
        ]),
    ),
    unused("status", Any),
];

/// The name and the labels of an object that the server has judged.
const JUDGED: Shape = Open(&[used("name", Text), used("namespace", Text), used("labels", TextMap)]);

const ENDPOINT_SLICE: &[Field] = &[
    used("metadata", JUDGED),
    used("addressType", Text),
    used(
        "endpoints",
        List(&Open(&[
            used("addresses", List(&Text)),
            used("conditions", Open(&[used("ready", Bool), used("serving", Bool), used("terminating", Bool)])),
            used("targetRef", Open(&[used("kind", Text), used("namespace", Text), used("name", Text)])),
        ])),
    ),
    used("ports", List(&Open(&[used("name", Text), used("port", Integer(0, 65535)), used("protocol", Text)]))),
];

const CONTAINERS: Shape = List(&Open(&[
    used("restartPolicy", Text),
    used("ports", List(&Open(&[used("name", Text), used("containerPort", PORT), used("protocol", Text)]))),
]));

const POD: &[Field] = &[
    used(
        "metadata",
        Open(&[
            used("name", Text),
            used("namespace", Text),
            used("uid", Text),
            used("labels", TextMap),
            used("annotations", TextMap),
            used("deletionTimestamp", Text),
        ]),
    ),
    used(
        "spec",
        Open(&[
            used("serviceAccountName", Text),
            used("nodeName", Text),
            used("hostNetwork", Bool),
            used("readinessGates", List(&Open(&[used("conditionType", Text)]))),
            used("containers", CONTAINERS),
            used("initContainers", CONTAINERS),
        ]),
    ),
    used(
        "status",
        Open(&[
            used("phase", Text),
            used("podIP", Text),
            used("podIPs", List(&Open(&[used("ip", Text)]))),
            used("conditions", List(&Open(&[used("type", Text), used("status", Text)]))),
        ]),
    ),
];

const NODE: &[Field] = &[
    used("metadata", JUDGED),
    used("status", Open(&[used("conditions", List(&Open(&[used("type", Text), used("status", Text)])))])),
];
