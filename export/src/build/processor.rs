//! Where a checkpoint keeps the configuration of its processor.
//!
//! transformers 5 saves one file, `processor_config.json`, with the image processor inside; earlier versions
//! wrote the image processor to `preprocessor_config.json`. Where both have one, the inner one counts, as in
//! transformers 5.23 (`image_processing_base.py`, `get_image_processor_dict`).

use std::path::Path;

use arrcoc_bundle::names::checkpoint::{PREPROCESSOR_CONFIG, PROCESSOR_CONFIG};
use serde_json::Value;

use super::error::TextError;
use super::files::{parse, read};

/// Key of the image processor in [`PROCESSOR_CONFIG`].
const INNER: &str = "image_processor";

/// What a checkpoint says of pictures besides `config.json`; `null` for what it does not say.
#[derive(Debug)]
pub(super) struct ProcessorFiles {
    /// The image processor.
    pub(super) image_processor: Value,
    /// The file that it stands in.
    pub(super) file: &'static str,
    /// `processor_config.json` without the image processor.
    pub(super) rest: Value,
}

impl ProcessorFiles {
    /// Reads the files that there are.
    pub(super) fn read(dir: &Path) -> Result<Self, TextError> {
        let mut rest = json(dir, PROCESSOR_CONFIG)?;
        if let Some(inner) = rest.as_object_mut().and_then(|entries| entries.remove(INNER)) {
            return Ok(Self { image_processor: inner, file: PROCESSOR_CONFIG, rest });
        }
        let image_processor = json(dir, PREPROCESSOR_CONFIG)?;
        Ok(Self { image_processor, file: PREPROCESSOR_CONFIG, rest })
    }
}

/// A JSON file; `null` where there is none.
fn json(dir: &Path, name: &str) -> Result<Value, TextError> {
    match read(dir, name)? {
        Some(bytes) => parse(dir, name, &bytes),
        None => Ok(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_inner_image_processor_wins() {
        let dir = tempfile::tempdir().unwrap();
        let read = || {
            let ProcessorFiles { image_processor, file, rest } = ProcessorFiles::read(dir.path()).unwrap();
            (image_processor["size"].clone(), file, rest)
        };
        assert_eq!(read(), (Value::Null, PREPROCESSOR_CONFIG, Value::Null));
        fs::write(dir.path().join(PREPROCESSOR_CONFIG), json!({"size": 1}).to_string()).unwrap();
        assert_eq!(read(), (json!(1), PREPROCESSOR_CONFIG, Value::Null));
        fs::write(dir.path().join(PROCESSOR_CONFIG), json!({"image_seq_len": 64}).to_string()).unwrap();
        assert_eq!(read(), (json!(1), PREPROCESSOR_CONFIG, json!({"image_seq_len": 64})));
        let both = json!({"image_seq_len": 64, INNER: {"size": 2}});
        fs::write(dir.path().join(PROCESSOR_CONFIG), both.to_string()).unwrap();
        assert_eq!(read(), (json!(2), PROCESSOR_CONFIG, json!({"image_seq_len": 64})));
    }
}
