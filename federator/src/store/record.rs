//! Pure. Records in the store: one byte of format, then JSON of the room's own type.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, Table};

/// The format of all records of this version.
const FORMAT: u8 = 1;

/// The bytes of a record.
///
/// # Errors
/// [`StoreError::Record`] when the value has no JSON form.
pub fn encode<T: Serialize>(table: Table, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).map_err(|e| StoreError::Record { table, reason: e.to_string() })?;
    Ok(bytes)
}

/// The record of these bytes.
///
/// # Errors
/// [`StoreError::Record`] when the format is another, or the JSON is not that of the type.
pub fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, StoreError> {
    let refuse = |reason: String| StoreError::Record { table, reason };
    match bytes.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(|e| refuse(e.to_string())),
        Some((format, _)) => Err(refuse(format!("its format is {format}, this version reads {FORMAT}"))),
        None => Err(refuse("it is empty".to_owned())),
    }
}

/// Bytes in JSON as base64.
pub mod base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    /// Reads.
    ///
    /// # Errors
    /// When the text is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// Lists of bytes in JSON as base64.
pub mod base64_list {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|b| STANDARD.encode(b)))
    }
    /// Reads.
    ///
    /// # Errors
    /// When an element is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(d)?.iter().map(|t| STANDARD.decode(t).map_err(D::Error::custom)).collect()
    }
}
