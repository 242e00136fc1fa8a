//! Whether a request comes from the homeserver.

use std::fmt;

use axum::http::{HeaderMap, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// The `hs_token` of the registration, which only the homeserver knows ([spec]).
///
/// [spec]: https://spec.matrix.org/v1.18/application-service-api/#authorization
pub(super) struct HsToken(SecretString);

impl HsToken {
    pub(super) const fn new(token: SecretString) -> Self {
        Self(token)
    }

    /// Accepts the token in `Authorization: Bearer` and nowhere else: a query parameter ends up in
    /// the logs of whatever stands between.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let token = bearer(headers).ok_or(ApiError::MissingToken)?;
        // An empty secret would let an empty token in.
        let expected = self.0.expose_secret().as_bytes();
        if expected.is_empty() || !bool::from(token.ct_eq(expected)) {
            return Err(ApiError::Forbidden);
        }
        Ok(())
    }
}

impl fmt::Debug for HsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HsToken(…)")
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}
