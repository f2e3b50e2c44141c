//! Traffic for a server of our own on the loopback interface: what `soak` and `abuse` send, and what they
//! watch meanwhile.

pub(crate) mod http;
pub(crate) mod pictures;
pub(crate) mod questions;
pub(crate) mod random;
pub(crate) mod server;
pub(crate) mod watch;

/// The checkpoint that traffic asks, and the page that it asks about.
pub(crate) const CHECKPOINT: &str = "reference/checkpoints/arr-coc-ledger";
pub(crate) const PAGE: &str = "tests/fixtures/ledger/page.png";
