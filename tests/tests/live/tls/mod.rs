//! TLS, and everything else that makes a connection one that can be trusted: beside psql 18, and
//! against somebody in between.

pub(crate) mod certificates;
mod conninfo;
mod files;
mod matrix;
mod middle;
pub(crate) mod scene;
mod several;
mod streaming;
