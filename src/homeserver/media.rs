//! Files: what goes up is ciphertext, and what nobody fetches any more is removed where that is allowed.

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
        let path = path_of(endpoint, "/_matrix/client/v1/media/download", file)?;
        self.get(endpoint, path).await.map(http::Response::into_body)
    }

    /// Removes a file of the own server's (Synapse's admin API, "DELETE /_synapse/admin/v1/media"): allowed where the
    /// bot is a server administrator. May be repeated: what is gone is not found.
    pub async fn remove_media(&self, file: &MxcUri) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::RemoveMedia;
        let path = path_of(endpoint, "/_synapse/admin/v1/media", file)?;
        self.call(self.request(endpoint, Method::DELETE, path, Bytes::new())).await.map(drop)
    }
}

fn path_of(endpoint: Endpoint, root: &str, file: &MxcUri) -> Result<Path, HomeserverError> {
    let (server, media) = file.parts().map_err(|error| unsendable(endpoint, &error.to_string()))?;
    Ok(Path::under(root, &[server.as_str(), media]))
}
