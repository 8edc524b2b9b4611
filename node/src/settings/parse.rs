//! Values that need their own words for what was expected.

use serde::{Deserialize, Deserializer, de::Error};
use std::net::SocketAddr;

pub fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_| D::Error::custom(format!("expected address:port such as 0.0.0.0:7400, found {text:?}")))
}
