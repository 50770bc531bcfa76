//! Pure. The reference of our kinds, as Markdown, from the schemas that the API server judges by.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::definition::definitions;

/// A row of a kind's conditions: type, status, reason, and what it means and asks for.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// What the statuses of policies, settings and trust domains say ([`super::verdict`]).
const JUDGED: &[Row] = &[
    ("Accepted", "True", "Accepted", "it is valid; the message has remarks on fields without effect"),
    ("Accepted", "False", "Invalid", "the message names each field at fault and what to write"),
    (
        "Accepted",
        "False",
        "NamespaceNotAllowed",
        "it is about another namespace than its own: put it there, or into the hub's",
    ),
    ("Accepted", "False", "Conflict", "another object says it already: change one of the two"),
    ("ResolvedRefs", "True", "ResolvedRefs", "all that it names is there"),
    (
        "ResolvedRefs",
        "False",
        "NotFound",
        "the message says what nobody has; it holds as it is written, and what it names may come later",
    ),
    ("ResolvedRefs", "Unknown", "Pending", "what there is to name is not known yet"),
    ("Programmed", "True", "Programmed", "it is in force"),
    ("Programmed", "Unknown", "Pending", "it is not in force yet"),
    ("Programmed", "False", "as `Accepted`", "the message says whether its last good version stays in force"),
    ("Programmed", "False", "NotInThisVersion", "it is kept and has no effect in this version"),
    ("Ready", "True", "Ready", "it is accepted and in force"),
    (
        "Ready",
        "True",
        "UnresolvedRefs",
        "it is in force as it is written; the message says what it names and nobody has",
    ),
    ("Ready", "False or Unknown", "as `Accepted` or `Programmed`", "the message says why"),
    ("Reconciling", "True", "Pending", "it is on its way; absent otherwise"),
    ("Stalled", "True", "as `Accepted`, or NotInThisVersion", "somebody has to act; absent otherwise"),
];
/// Likewise of a Cluster.
const CLUSTER: &[Row] = &[
    ("Accepted", "True", "Accepted", "tokens can be made of it, and a member is bound to the same"),
    ("Accepted", "False", "Invalid", "no token can be made of it; the message names the field and what to write"),
    (
        "Accepted",
        "False",
        "NetworkConflict",
        "another cluster has a network of this name with other ranges; no token is made by it: change one of the two",
    ),
    (
        "Accepted",
        "False",
        "DiffersFromToken",
        "a member keeps what its token gave it: change it back, or join again with another token",
    ),
    ("ResolvedRefs", "True", "ResolvedRefs", "it refers to nothing else"),
    ("Programmed", "True", "Programmed", "it is a member, and the others know it"),
    ("Programmed", "False", "NotJoined", "no cluster of this name has joined; the message has the command for a token"),
    ("Programmed", "False", "Left", "it left by its own wish"),
    ("Programmed", "False", "Evicted", "it was thrown out"),
    ("Ready", "True", "Ready", "its agent is connected, and what it shows is taken"),
    ("Ready", "False", "Disconnected", "its agent has no session; what it showed last stays in force"),
    ("Ready", "False", "NotReady", "the message says what it waits for"),
    ("Ready", "False", "as `Accepted` or `Programmed`", "the message says why"),
    ("Reconciling", "True", "as `Ready`", "it is on its way; absent otherwise"),
    ("Stalled", "True", "as `Accepted`", "somebody has to act; absent otherwise"),
];
/// Likewise of a Membership.
const MEMBERSHIP: &[Row] = &[
    ("Joined", "True", "Joined", "the fleet knows this cluster"),
    ("Joined", "False", "TokenSecretMissing", "make the Secret, with its key; nothing else is needed"),
    ("Joined", "False", "TokenSecretNotAllowed", "name the Secret that the release names (`membership.tokenSecret`)"),
    ("Joined", "False", "TokenRefused", "put a new token into the Secret"),
    ("Joined", "False", "JoinDenied", "the hub said why: the name is taken, or a network has other ranges"),
    (
        "Joined",
        "False",
        "IdentityOfAnother",
        "`meshfed-identity` keeps the CA key of another name: use a token for that, or do as the message says",
    ),
    ("Joined", "False", "HubUnreachable", "`spec.hub` does not answer; it is tried again"),
    ("Joined", "False", "HubNotTrusted", "what answers is not the hub that the token names, or the clocks differ"),
    ("Joined", "False", "Leaving", "the hub of the last Membership is told that the cluster leaves; then it joins"),
    ("Joined", "False", "IdentityUnavailable", "`meshfed-identity` cannot be read or written"),
    ("Joined", "False", "IdentityDamaged", "a file in it cannot be used; put it back, and it goes on by itself"),
    ("Joined", "False", "IdentityNotKept", "`meshfed-identity` cannot be written; the message says why"),
    ("Joined", "False", "DataDirectory", "the agent's own files cannot be read or written; the message says which"),
    ("Joined", "Unknown", "Pending", "the agent has seen it and begins"),
    ("Connected", "True", "Connected", "a session to a federator is open"),
    ("Connected", "False", "HubUnreachable", "none is; traffic goes on without one"),
    ("Connected", "False", "HubNotTrusted", "what answers is not the hub that was joined: leave, then join it anew"),
    (
        "ViewKept",
        "False",
        "ViewTooLarge",
        "the view is larger than the Secrets hold: `persistence.enabled`, or import into fewer namespaces; absent otherwise",
    ),
    ("ViewKept", "False", "ViewNotKept", "the Secrets cannot be written, as the message says; absent otherwise"),
    ("Ready", "True", "Ready", "joined, connected, and what the hub sent is in force"),
    ("Ready", "False", "AgentNotReady", "the message says what the agent waits for"),
    ("Ready", "False", "KindsMissing", "the API server does not serve kinds that are needed: install `meshfed-crds`"),
    ("Ready", "False", "AnchorChanged", "another cluster has another CA: approve it as the message says"),
    ("Ready", "False", "GatewayNotAllowed", "no other network reaches this cluster; the message says what to change"),
    ("Ready", "False", "IdentityUnavailable", "`meshfed-identity` is gone: make it again, and the agent fills it"),
    (
        "Ready",
        "False",
        "IdentityDamaged",
        "a CA key in `meshfed-identity` is none: take it out, and it is written anew",
    ),
    ("Ready", "False", "HubUnreachable", "as `Connected`"),
    ("Ready", "False", "HubNotTrusted", "as `Connected`"),
    ("Ready", "False", "SecondMembership", "another Membership of the namespace is older and counts"),
    (
        "ImportsWithinLimits",
        "False",
        "LimitReached",
        "another cluster exports more than is imported of one: raise `imports.perCluster` or `imports.perNamespace`, or have it \
         export less; absent otherwise",
    ),
    ("Reconciling", "True", "as `Ready`", "something is tried again by itself; absent otherwise"),
    ("Stalled", "True", "as `Ready`", "somebody has to act; absent otherwise"),
];

/// The rows of a kind.
fn conditions(kind: &str) -> &'static [Row] {
    match kind {
        "Cluster" => CLUSTER,
        "Membership" => MEMBERSHIP,
        _ => JUDGED,
    }
}

/// The reference of all kinds.
///
/// # Errors
/// A definition that is no JSON.
pub fn reference() -> Result<String, serde_json::Error> {
    let mut out = String::from(
        "# Kinds\n\nGroup `federation.meshfed.io`, version `v1alpha1`. Made from the code by `meshfed crds --reference`; a test\n\
         fails when it is stale. In *limits*, a pattern is a regular expression, and a rule is what the API server says when it\n\
         refuses. A field is optional unless it is said to be required.\n",
    );
    for definition in definitions()? {
        of_kind(&mut out, &definition.body["spec"]);
    }
    Ok(out)
}

fn of_kind(out: &mut String, spec: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, plural) = (text(&spec["names"]["kind"]), text(&spec["names"]["plural"]));
    let short: Vec<String> = spec["names"]["shortNames"].as_array().into_iter().flatten().map(text).collect();
    let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"];
    line(out, &format!("\n## {kind}\n\n{}\n", text(&schema["description"])));
    let scope = if spec["scope"] == "Namespaced" { "of a namespace" } else { "of the whole cluster" };
    line(out, &format!("`{plural}`, short `{}`, category `meshfed`; {scope}.", short.join("`, `")));
    for rule in rules(schema) {
        line(out, &format!("\n- {rule}"));
    }
    for part in ["spec", "status"] {
        line(
            out,
            &format!("\n### {kind} {part}\n\n| field | type | default | limits | meaning |\n|---|---|---|---|---|"),
        );
        let schema = &schema["properties"][part];
        fields(out, part, schema);
    }
    line(out, &format!("\n### {kind} conditions\n\n| type | status | reason | meaning |\n|---|---|---|---|"));
    for (type_, status, reason, meaning) in conditions(&kind) {
        let reason = if reason.contains('`') { (*reason).to_owned() } else { format!("`{reason}`") };
        line(out, &format!("| `{type_}` | {status} | {reason} | {meaning} |"));
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a text never fails.
    let _written = writeln!(out, "{text}");
}

/// A row for each field of an object, and for the fields below it.
fn fields(out: &mut String, path: &str, schema: &Value) {
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let needed = if required.contains(name.as_str()) { "required" } else { "" };
        let default = field.get("default").map_or_else(|| needed.to_owned(), |value| format!("`{value}`"));
        let meaning = field["description"].as_str().unwrap_or_default().replace('|', "\\|");
        let limits = limits(field).join("; ").replace('|', "\\|");
        line(out, &format!("| `{path}` | {} | {default} | {limits} | {meaning} |", type_of(field)));
        // A list's items have their own fields.
        if field["items"]["properties"].is_object() {
            fields(out, &format!("{path}[]"), &field["items"]);
        } else {
            fields(out, &path, field);
        }
    }
}

fn type_of(schema: &Value) -> String {
    let plain = schema["type"].as_str().unwrap_or("any");
    match plain {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of {}", type_of(&schema["additionalProperties"]))
        }
        "string" if schema["format"] == "date-time" => "time (RFC 3339)".to_owned(),
        other => other.to_owned(),
    }
}

/// What a value may be, in words.
fn limits(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        found.push(words.join(", "));
    }
    for (least, most, what) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " pairs"),
    ] {
        let number = |key: &str| schema[key].as_f64();
        match (number(least), number(most)) {
            (Some(least), Some(most)) => found.push(format!("{least} to {most}{what}")),
            (None, Some(most)) => found.push(format!("at most {most}{what}")),
            (Some(least), None) => found.push(format!("at least {least}{what}")),
            (None, None) => {}
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        found.push(format!("pattern `{pattern}`"));
    }
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => found.push("no item twice".to_owned()),
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
            found.push(format!("one item for each `{}`", keys.collect::<Vec<_>>().join("`, `")));
        }
        Some(_) | None => {}
    }
    found.extend(rules(schema));
    for (inner, whose) in [("items", "each"), ("additionalProperties", "each value")] {
        // The fields of an object are rows of their own.
        if schema[inner].is_object() && !schema[inner]["properties"].is_object() {
            let of_item = limits(&schema[inner]);
            if !of_item.is_empty() {
                found.push(format!("{whose}: {}", of_item.join(", ")));
            }
        } else {
            found.extend(rules(&schema[inner]).into_iter().map(|rule| format!("{whose}: {rule}")));
        }
    }
    found
}

/// The rules beyond the schema, by what is said when they refuse.
fn rules(schema: &Value) -> Vec<String> {
    let all = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    all.filter_map(|rule| rule["message"].as_str()).map(|message| format!("rule: {message}")).collect()
}
