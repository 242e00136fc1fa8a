//! The specification's error answers.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// An answer other than 200, as `{"errcode": …, "error": …}` ([spec]).
///
/// [spec]: https://spec.matrix.org/v1.18/client-server-api/#standard-error-response
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("The request has no Authorization header with a Bearer token.")]
    MissingToken,
    #[error("The token is not the hs_token of this application service.")]
    Forbidden,
    #[error("The body is larger than this application service accepts.")]
    TooLarge,
    #[error("The body did not arrive to its end.")]
    Incomplete,
    #[error("The body is not JSON.")]
    NotJson,
    #[error("The body is JSON, but not of this endpoint's shape.")]
    BadJson,
    #[error("A part of the path is not what this endpoint takes.")]
    InvalidParam,
    #[error("This application service does not have that.")]
    NotFound,
    #[error("There is no such endpoint.")]
    UnknownPath,
    #[error("This endpoint does not take that method.")]
    UnknownMethod,
    #[error("The transaction could not be stored. Please repeat it.")]
    NotStored,
}

impl ApiError {
    const fn status(self) -> StatusCode {
        match self {
            Self::MissingToken => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::NotJson | Self::BadJson | Self::InvalidParam => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::UnknownMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotStored => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn errcode(self) -> &'static str {
        match self {
            Self::MissingToken => "M_MISSING_TOKEN",
            Self::Forbidden => "M_FORBIDDEN",
            Self::TooLarge => "M_TOO_LARGE",
            Self::NotJson => "M_NOT_JSON",
            Self::BadJson => "M_BAD_JSON",
            Self::InvalidParam => "M_INVALID_PARAM",
            Self::NotFound => "M_NOT_FOUND",
            Self::UnknownPath | Self::UnknownMethod => "M_UNRECOGNIZED",
            Self::Incomplete | Self::NotStored => "M_UNKNOWN",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "errcode": self.errcode(), "error": self.to_string() }));
        (self.status(), body).into_response()
    }
}
