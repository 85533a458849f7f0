//! TLS, and everything else that makes a connection one that can be trusted: beside psql 18, and
//! against somebody in between.

pub(crate) mod certificates;
mod matrix;
pub(crate) mod scene;
