//! Traffic for a server of our own on the loopback interface: what `soak` and `abuse` send, and what they watch meanwhile.

pub(crate) mod http;
pub(crate) mod pictures;
pub(crate) mod questions;
pub(crate) mod random;
pub(crate) mod server;
pub(crate) mod watch;
