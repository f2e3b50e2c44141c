//! What is wrong with a bundle, for those who open one.

use std::path::PathBuf;

use crate::manifest;
use crate::names::file::MANIFEST;
use crate::quote::excerpt;
use crate::yaml::YamlError;

/// A bundle that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory or its manifest cannot be read.
    #[error(
        "`{}` is not a bundle: {source}; expected a directory with a `{MANIFEST}`, as `arrcoc-export build` writes it",
        path.display()
    )]
    Open {
        /// What was to be read.
        path: PathBuf,
        /// Why it was not.
        source: std::io::Error,
    },
    /// The manifest does not parse.
    #[error("`{}` does not parse: {source}; export the checkpoint again", path.display())]
    Yaml {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: YamlError,
    },
    /// The manifest has another format version.
    #[error(
        "expected bundle format {}, found {found}; export the checkpoint again with this version of arrcoc-export",
        manifest::FORMAT
    )]
    Format {
        /// The manifest's version.
        found: u32,
    },
    /// A field has a value that makes no sense.
    #[error("manifest field `{field}`: expected {expected}, found {found}")]
    Field {
        /// Path of the field.
        field: String,
        /// What would be right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A path leads out of the bundle.
    #[error("manifest field `{field}`: expected a path inside the bundle, found `{path}` ({reason})")]
    Path {
        /// Path of the field.
        field: String,
        /// The offending value.
        path: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A file that the manifest names cannot be read.
    #[error("`{file}` of the bundle cannot be read: {source}; copy the whole directory or export again")]
    Read {
        /// Path in the bundle.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A graph reads a file that the manifest does not list, so that nobody has checked it.
    #[error(
        "graph `{graph}` reads `{}`, expected only files that the manifest lists; export the checkpoint again",
        excerpt(file)
    )]
    Unlisted {
        /// The graph's name.
        graph: String,
        /// The file, as the graph writes it.
        file: String,
    },
    /// A graph's file holds no graph, or reads files that cannot be checked.
    #[error("graph `{graph}` cannot be used: {reason}; export the checkpoint again")]
    Graph {
        /// The graph's name.
        graph: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file was replaced between its hash and its use.
    #[error(
        "`{file}` of the bundle was replaced while it was being loaded; load it again when the bundle is complete"
    )]
    Replaced {
        /// Path in the bundle.
        file: String,
    },
    /// A file is not the one that the exporter wrote.
    #[error(
        "`{file}` was changed after the export: expected SHA-256 {expected}, found {found}; copy it again or export again"
    )]
    Hash {
        /// Path in the bundle.
        file: String,
        /// The manifest's digest, hex.
        expected: String,
        /// The file's digest, hex.
        found: String,
    },
    /// Somebody is about to write to a file that is in use.
    #[error(
        "`{file}` is about to be written to: the writer is held off until the model has stopped; replace bundles as a whole, as \
         `arrcoc-export build` and `mv` do"
    )]
    Written {
        /// Path in the bundle.
        file: String,
    },
    /// The manifest names no such graph.
    #[error("the bundle has no graph `{name}`; export the checkpoint again")]
    NoGraph {
        /// The graph's name.
        name: String,
    },
    /// The manifest lists no such file.
    #[error("the bundle has no file `{name}`; export the checkpoint again")]
    NoFile {
        /// The file's path in the bundle.
        name: String,
    },
}
