//! Pure. The body of `POST tokens`, read as far as it can be, so that all of its faults are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use meshfed_api::http::{FieldError, Network, TokenRequest};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::problem::repeated;

/// Faults that are told of one body; who has more mends these first.
pub(super) const FAULTS_MAX: usize = 100;

/// JSON as it is written: fields in their order, also those that are there twice.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Flag(bool),
    Number,
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "true or false",
            Self::Number => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Json;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Json::Object(object))
    }
}

/// The request with its faults of form. What could not be read is empty in it.
pub(super) fn token_request(body: &Json) -> (TokenRequest, Vec<FieldError>) {
    let mut faults = Faults::default();
    let known = ["cluster", "networks", "regions", "zones", "gatewayCidrs", "ttl", "replace", "labels"];
    let fields = faults.object("", body, &known);
    let field = |name: &str| fields.get(name).copied();
    let cluster = faults.required("cluster", field("cluster"), "the name of the cluster that may join");
    let request = TokenRequest {
        cluster,
        networks: faults.list("networks", field("networks"), |faults, at, item| faults.network(at, item)),
        regions: faults.texts("regions", field("regions")),
        zones: faults.texts("zones", field("zones")),
        gateway_cidrs: faults.texts("gatewayCidrs", field("gatewayCidrs")),
        ttl: field("ttl").filter(|ttl| !matches!(ttl, Json::Null)).map(|ttl| faults.text("ttl", ttl)),
        replace: faults.flag("replace", field("replace")),
        labels: faults.labels(field("labels")),
    };
    (request, faults.0)
}

/// Whether a fault of a field says no more than one of `known`: it is the same field, or lies in it.
pub(super) fn follows(fault: &FieldError, known: &[FieldError]) -> bool {
    known.iter().any(|k| {
        let rest = fault.field.strip_prefix(k.field.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, field: &str, reason: &str, message: String, remedy: Option<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(FieldError { field: field.to_owned(), reason: reason.to_owned(), message, remedy });
        }
    }
    fn wanted(&mut self, field: &str, wanted: &str, is: &Json) {
        self.add(field, "Invalid", format!("is {}; {wanted} is wanted", is.kind()), None);
    }

    /// The known fields of an object; of one that is there twice the first.
    fn object<'a>(&mut self, at: &str, body: &'a Json, known: &[&str]) -> BTreeMap<&'a str, &'a Json> {
        let Json::Object(fields) = body else {
            self.wanted(at, "an object", body);
            return BTreeMap::new();
        };
        let (mut found, mut told) = (BTreeMap::new(), BTreeSet::new());
        for (name, value) in fields {
            let shown = repeated(name);
            let field = if at.is_empty() { shown.clone() } else { format!("{at}.{shown}") };
            if !known.contains(&name.as_str()) {
                if told.insert(name) {
                    let remedy = format!("fields here: {}", known.join(", "));
                    self.add(&field, "Unknown", format!("there is no field '{shown}' here"), Some(remedy));
                }
            } else if found.contains_key(name.as_str()) {
                if told.insert(name) {
                    self.add(&field, "TooMany", "is given twice".to_owned(), Some("give it once".to_owned()));
                }
            } else {
                found.insert(name.as_str(), value);
            }
        }
        found
    }
    fn required(&mut self, field: &str, value: Option<&Json>, what: &str) -> String {
        match value {
            Some(value) => self.text(field, value),
            None => {
                self.add(field, "Required", format!("is missing: {what}"), None);
                String::new()
            }
        }
    }
    fn text(&mut self, field: &str, value: &Json) -> String {
        match value {
            Json::Text(text) => text.clone(),
            Json::Null | Json::Flag(_) | Json::Number | Json::List(_) | Json::Object(_) => {
                self.wanted(field, "a string", value);
                String::new()
            }
        }
    }
    fn flag(&mut self, field: &str, value: Option<&Json>) -> bool {
        match value {
            None => false,
            Some(Json::Flag(flag)) => *flag,
            Some(other) => {
                self.wanted(field, "true or false", other);
                false
            }
        }
    }
    /// One that is missing is empty: whether it may be is not a matter of form.
    fn list<T>(&mut self, field: &str, value: Option<&Json>, item: impl Fn(&mut Self, &str, &Json) -> T) -> Vec<T> {
        match value {
            None => Vec::new(),
            Some(Json::List(list)) => {
                let each = list.iter().enumerate();
                each.map(|(i, value)| item(self, &format!("{field}[{i}]"), value)).collect()
            }
            Some(other) => {
                self.wanted(field, "a list", other);
                Vec::new()
            }
        }
    }
    fn texts(&mut self, field: &str, value: Option<&Json>) -> Vec<String> {
        self.list(field, value, Self::text)
    }
    fn network(&mut self, at: &str, value: &Json) -> Network {
        let fields = self.object(at, value, &["name", "cidrs"]);
        if !matches!(value, Json::Object(_)) {
            return Network { name: String::new(), cidrs: Vec::new() };
        }
        let name = self.required(&format!("{at}.name"), fields.get("name").copied(), "the name of the network");
        Network { name, cidrs: self.texts(&format!("{at}.cidrs"), fields.get("cidrs").copied()) }
    }
    fn labels(&mut self, value: Option<&Json>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        match value {
            None => {}
            Some(Json::Object(fields)) => {
                for (key, value) in fields {
                    let field = format!("labels.{}", repeated(key));
                    let value = self.text(&field, value);
                    if labels.insert(key.clone(), value).is_some() {
                        self.add(&field, "TooMany", "is given twice".to_owned(), Some("give it once".to_owned()));
                    }
                }
            }
            Some(other) => self.wanted("labels", "an object", other),
        }
        labels
    }
}
