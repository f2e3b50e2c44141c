//! The results as files: `eval.json`, `eval.md`, `curves.svg` and `curves.png`.

use std::path::{Path, PathBuf};

use super::summary::Summary;

mod chart;
mod page;

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file system's.
    #[error("cannot write `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The plotting library's.
    #[error("cannot draw the curves: {0}")]
    Chart(String),
    /// The image library's.
    #[error("cannot encode the curves: {0}")]
    Png(#[from] image::ImageError),
}

/// Writes all files and returns the page.
///
/// # Errors
/// [`ReportError`].
pub fn write(output: &Path, summary: &Summary) -> Result<String, ReportError> {
    let write = |name: &str, bytes: &[u8]| {
        let path = output.join(name);
        std::fs::write(&path, bytes).map_err(|source| ReportError::File { path, source })
    };
    let json = serde_json::to_string_pretty(summary)
        .map_err(|error| ReportError::File { path: output.join("eval.json"), source: error.into() })?;
    write("eval.json", format!("{json}\n").as_bytes())?;
    let page = page::page(summary);
    write("eval.md", page.as_bytes())?;
    write("curves.svg", chart::svg(summary)?.as_bytes())?;
    write("curves.png", &chart::png(summary)?)?;
    Ok(page)
}
