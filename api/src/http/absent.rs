//! Pure. Empty texts and zeros that mean "not known": `null` in JSON (`contracts.md` part 3: absent = null).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a value, or `null` where it is the empty one.
pub(super) fn serialize<T: Serialize + Default + PartialEq, S: Serializer>(
    value: &T,
    to: S,
) -> Result<S::Ok, S::Error> {
    Some(value).filter(|value| **value != T::default()).serialize(to)
}

/// Reads a value; `null` is the empty one.
pub(super) fn deserialize<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::super::{SourceError, SourceState};

    /// Every text and number that may be missing, both ways.
    #[test]
    fn what_is_not_known_is_null() {
        let error =
            SourceError { code: "AnchorChanged".into(), name: "east.mesh.example".into(), ..Default::default() };
        let source = SourceState { errors: vec![error], ..Default::default() };
        let json = serde_json::to_value(&source).unwrap();
        assert_eq!((&json["epoch"], &json["revision"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        let shown = &json["errors"][0];
        for absent in ["file", "line", "column", "kind", "namespace", "field", "remedy"] {
            assert!(shown.get(absent).is_some_and(serde_json::Value::is_null), "{absent}: {shown}");
        }
        assert_eq!(shown["name"], "east.mesh.example");
        assert_eq!(serde_json::from_value::<SourceState>(json).unwrap(), source);
    }
}
