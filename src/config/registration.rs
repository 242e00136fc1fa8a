//! The registration: what the homeserver is told about the application service.
