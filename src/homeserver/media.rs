//! Files: what goes up is ciphertext.

use bytes::Bytes;
use http::Method;
use ruma::{MxcUri, OwnedMxcUri};
use serde::Deserialize;

use super::{Endpoint, Homeserver, HomeserverError, path::Path, read, unsendable};

/// What an encrypted file is to the homeserver.
const CIPHERTEXT: &str = "application/octet-stream";

impl Homeserver {
    /// Puts ciphertext into the homeserver's media repository (client-server API, "POST /_matrix/media/v3/upload").
    /// A repetition puts it there twice.
    pub async fn upload(&self, ciphertext: Bytes) -> Result<OwnedMxcUri, HomeserverError> {
        #[derive(Deserialize)]
        struct Uploaded {
            content_uri: OwnedMxcUri,
        }
        let endpoint = Endpoint::Upload;
        let path = Path::under("/_matrix/media/v3", &["upload"]);
        let mut call = self.request(endpoint, Method::POST, path, ciphertext);
        call.content_type = CIPHERTEXT;
        read::<Uploaded>(endpoint, &self.call(call).await?).map(|uploaded| uploaded.content_uri)
    }

    /// A file of the media repository (client-server API, "GET
    /// /_matrix/client/v1/media/download/{serverName}/{mediaId}"). Only looks.
    pub async fn download(&self, file: &MxcUri) -> Result<Bytes, HomeserverError> {
        let endpoint = Endpoint::Download;
        let (server, media) =
            file.parts().map_err(|error| unsendable(endpoint, &error.to_string()))?;
        let segments = ["media", "download", server.as_str(), media];
        let path = Path::under("/_matrix/client/v1", &segments);
        self.get(endpoint, path).await.map(http::Response::into_body)
    }
}
