//! The schema, the sample and the reference, generated from the configuration's own types.
