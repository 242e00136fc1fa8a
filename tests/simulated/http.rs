//! Calls and replies, without the transport.

use std::collections::HashMap;

use http::Method;
use serde_json::{Value, json};

/// A request, taken apart.
pub struct Call {
    pub method: Method,
    /// Path segments, percent-decoded.
    pub segments: Vec<String>,
    pub path: String,
    pub query: HashMap<String, String>,
    pub bearer: Option<String>,
    pub body: String,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl Call {
    /// Takes a request apart.
    pub fn new(parts: &http::request::Parts, body_bytes: &[u8]) -> Self {
        let path = parts.uri.path().to_owned();
        let segments = path.split('/').skip(1).map(percent_decode).collect();
        let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let bearer = parts
            .headers
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .map(str::to_owned);
        let body = String::from_utf8_lossy(body_bytes).into_owned();
        let bytes = body_bytes.to_vec();
        Self { method: parts.method.clone(), segments, path, query, bearer, body, bytes }
    }

    /// The body as JSON; an empty one is an empty object.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| json!({}))
    }

    /// A query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// The masqueraded device, under either of its names.
    pub fn device_id(&self) -> Option<&str> {
        self.query("device_id").or_else(|| self.query("org.matrix.msc3202.device_id"))
    }
}

/// An answer.
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    pub const fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub fn empty() -> Self {
        Self::ok(json!({}))
    }

    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self { status, body: json!({ "errcode": code, "error": message }) }
    }

    pub fn forbidden(message: &str) -> Self {
        Self::error(403, "M_FORBIDDEN", message)
    }

    pub fn not_found(message: &str) -> Self {
        Self::error(404, "M_NOT_FOUND", message)
    }
}

/// Decodes one path segment.
pub fn percent_decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| segment.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = hex {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
