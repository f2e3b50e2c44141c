//! The data set: `RawRow` is what the file says, [`Row`] what was checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A data set.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// The rows, at least one, in the file's order.
    pub rows: Vec<Row>,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// The file's name.
    pub name: String,
}

/// A question about an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The image, as the file names it: questions about one image belong together.
    pub image: String,
    /// Where that is.
    pub path: PathBuf,
    /// The question.
    pub query: String,
    /// The right answer.
    pub answer: String,
    /// Where it is: left, top, right, bottom in pixels of the image.
    pub answer_box: Option<[f32; 4]>,
    /// What kind of question it is.
    pub kind: Option<String>,
    /// Characters on the page.
    pub characters: Option<f64>,
    /// The question that was asked before this one, of the row that `pair` names.
    pub first: Option<String>,
}

/// Kinds of questions that are no test of finding one place; all others are, those without a kind too.
pub const CONTROLS: [&str; 5] = ["count", "transcription", "two_hop", "second_question", "salient"];

impl Row {
    /// Whether one place of the image holds the answer.
    pub fn one_place(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| !CONTROLS.contains(&kind))
    }
}

/// A data set that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read the data set `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no JSON.
    #[error("`{}` is neither a JSON list nor JSON Lines: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A row cannot be used.
    #[error("`{}`, row {row} (counted from 0): {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Which row.
        row: usize,
        /// What is wrong with it.
        reason: RowError,
    },
    /// No rows.
    #[error("`{}` holds no question; expected objects with `image`, `query` and `answer`", .0.display())]
    Empty(PathBuf),
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A field is missing or of another type.
    #[error("{0}; expected `image`, `query` and `answer`")]
    Form(#[from] serde_json::Error),
    /// No corners of a rectangle.
    #[error("`box`: expected left < right and top < bottom, in pixels, found {0:?}")]
    AnswerBox([f64; 4]),
    /// No number of characters.
    #[error("`characters`: expected 0 or more, found {0}")]
    Characters(f64),
    /// No such row.
    #[error("`pair`: expected the id of another row, or its index where rows have no ids, found `{0}`")]
    Pair(String),
    /// The other row has another image.
    #[error("`pair`: expected a row about the same image, `{image}`; row {other} is about `{found}`")]
    PairImage {
        /// This row's image.
        image: String,
        /// The row that it names, counted from 0.
        other: usize,
        /// That row's image.
        found: String,
    },
    /// Two rows have one id.
    #[error("`id`: `{0}` is another row's already")]
    Id(String),
    /// An empty name.
    #[error("`{0}`: expected some text, found none")]
    Blank(&'static str),
}

/// A row before any check. Unknown fields are ignored.
#[derive(Deserialize)]
struct RawRow {
    id: Option<Name>,
    image: String,
    query: String,
    answer: Name,
    #[serde(rename = "box")]
    answer_box: Option<[f64; 4]>,
    kind: Option<String>,
    characters: Option<f64>,
    pair: Option<Name>,
}

/// Text, or a number that is written without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(serde_json::Number),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl DataSet {
    /// Reads a JSON list or JSON Lines; of more than `limit` rows the first.
    ///
    /// # Errors
    /// [`DataError`] names the file and the row.
    pub fn read(path: &Path, limit: Option<usize>) -> Result<Self, DataError> {
        let bytes =
            std::fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
        let values = parse(&bytes).map_err(|source| DataError::Json { path: path.to_path_buf(), source })?;
        let at = |row, reason| DataError::Row { path: path.to_path_buf(), row, reason };
        let mut raw = Vec::new();
        for (row, value) in values.into_iter().enumerate() {
            let parsed = serde_json::from_value::<RawRow>(value).map_err(|error| at(row, error.into()))?;
            raw.push(parsed);
        }
        let ids = ids(&raw).map_err(|(row, reason)| at(row, reason))?;
        let asked: Vec<(String, String)> =
            raw.iter().map(|row| (row.image.clone(), row.query.clone())).collect();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut rows = Vec::new();
        for (index, row) in raw.into_iter().enumerate() {
            let first = pair(&row, index, &ids, &asked).map_err(|reason| at(index, reason))?;
            rows.push(check(row, first, folder).map_err(|reason| at(index, reason))?);
        }
        rows.truncate(limit.unwrap_or(usize::MAX));
        if rows.is_empty() {
            return Err(DataError::Empty(path.to_path_buf()));
        }
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self { rows, sha256: arrcoc_bundle::files::hex(&Sha256::digest(&bytes)), name })
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Value>, serde_json::Error> {
    // A byte-order mark is what some editors leave.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => serde_json::from_slice(bytes),
        _ => serde_json::Deserializer::from_slice(bytes).into_iter().collect(),
    }
}

/// Index of every id.
fn ids(rows: &[RawRow]) -> Result<HashMap<String, usize>, (usize, RowError)> {
    let mut ids = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        if let Some(id) = row.id.as_ref().map(Name::to_string)
            && ids.insert(id.clone(), index).is_some()
        {
            return Err((index, RowError::Id(id)));
        }
    }
    Ok(ids)
}

/// The question of the row that `pair` names, which must be about the same image: by id, or by index where
/// rows have no ids. `asked` holds every row's image and question.
fn pair(
    row: &RawRow,
    index: usize,
    ids: &HashMap<String, usize>,
    asked: &[(String, String)],
) -> Result<Option<String>, RowError> {
    let Some(pair) = row.pair.as_ref().map(Name::to_string) else { return Ok(None) };
    let other = if ids.is_empty() { pair.parse().ok() } else { ids.get(&pair).copied() };
    let found = other.filter(|&other: &usize| other != index).and_then(|at| Some((at, asked.get(at)?)));
    match found {
        None => Err(RowError::Pair(pair)),
        Some((other, (found, _))) if *found != row.image => {
            Err(RowError::PairImage { image: row.image.clone(), other, found: found.clone() })
        }
        Some((_, (_, query))) => Ok(Some(query.clone())),
    }
}

fn check(row: RawRow, first: Option<String>, folder: &Path) -> Result<Row, RowError> {
    for (field, text) in [("image", &row.image), ("query", &row.query)] {
        if text.trim().is_empty() {
            return Err(RowError::Blank(field));
        }
    }
    if let Some([left, top, right, bottom]) = row.answer_box
        && !(left < right && top < bottom && [left, top, right, bottom].iter().all(|x| x.is_finite()))
    {
        return Err(RowError::AnswerBox([left, top, right, bottom]));
    }
    if let Some(characters) = row.characters.filter(|&count| !(count >= 0.0 && count.is_finite())) {
        return Err(RowError::Characters(characters));
    }
    Ok(Row {
        path: folder.join(&row.image),
        image: row.image,
        query: row.query,
        answer: row.answer.to_string(),
        answer_box: row.answer_box.map(|corners| corners.map(|x| x as f32)),
        kind: row.kind.filter(|kind| !kind.is_empty()),
        characters: row.characters,
        first,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str, limit: Option<usize>) -> Result<DataSet, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.json");
        std::fs::write(&path, text).unwrap();
        DataSet::read(&path, limit)
    }

    fn error(text: &str) -> String {
        read(text, None).unwrap_err().to_string()
    }

    #[test]
    fn a_list_and_lines_are_the_same() {
        let a = r#"{"image": "a.png", "query": "Q?", "answer": 12, "more": [1], "box": null}"#;
        let b = r#"{"image": "a.png", "query": "R?", "answer": "x", "box": [1, 2.5, 3, 4], "kind": "count", "pair": 0}"#;
        let list = read(&format!(" [{a},\n{b}]"), None).unwrap();
        let lines = read(&format!("{a}\n\n{b}\n"), None).unwrap();
        assert_eq!(list.rows, lines.rows.iter().map(|row| moved(row, &list)).collect::<Vec<_>>());
        assert_eq!(list.rows[0].answer, "12");
        assert!(list.rows[0].one_place() && !list.rows[1].one_place());
        assert_eq!(
            (list.rows[1].answer_box, list.rows[1].first.as_deref()),
            (Some([1.0, 2.5, 3.0, 4.0]), Some("Q?"))
        );
        assert_eq!(read(&format!("[{a},{b}]"), Some(1)).unwrap().rows.len(), 1);
    }

    /// The row with the other set's folder.
    fn moved(row: &Row, to: &DataSet) -> Row {
        let folder = to.rows[0].path.parent().unwrap();
        Row { path: folder.join(&row.image), ..row.clone() }
    }

    #[test]
    fn pairs_are_ids_where_there_are_ids() {
        let row = |id: &str, pair: &str| {
            let query = id.trim_matches('"');
            format!(r#"{{"id": {id}, "image": "a", "query": "{query}?", "answer": "a", "pair": {pair}}}"#)
        };
        let set = read(&format!("[{},{}]", row("7", "null"), row("\"b\"", "7")), None).unwrap();
        assert_eq!(set.rows[1].first.as_deref(), Some("7?"));
        let text = error(&format!("[{},{}]", row("7", "null"), row("8", "0")));
        assert!(text.contains("row 1") && text.contains("`pair`") && text.contains("`0`"), "{text}");
        assert!(error(&format!("[{},{}]", row("7", "null"), row("7", "null"))).contains("`id`"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let row = |more: &str| format!(r#"[{{"image": "a", "query": "q", "answer": "a", {more}}}]"#);
        for (text, expected) in [
            (row(r#""box": [5, 0, 5, 9]"#), "`box`"),
            (row(r#""box": [1, 2, 3]"#), "row 0"),
            (row(r#""characters": -1"#), "`characters`"),
            (row(r#""pair": 4"#), "`pair`"),
            (row(r#""pair": 0"#), "`pair`"),
            (row(r#""pair": 1}, {"image": "b", "query": "r", "answer": "a""#), "row 1 is about `b`"),
            (r#"[{"image": "a", "query": "q"}]"#.to_owned(), "answer"),
            (r#"[{"image": " ", "query": "q", "answer": ""}]"#.to_owned(), "`image`"),
            ("[]".to_owned(), "no question"),
            (" \n".to_owned(), "no question"),
            ("{broken".to_owned(), "neither"),
        ] {
            assert!(error(&text).contains(expected), "{text}: {}", error(&text));
        }
        assert!(DataSet::read(Path::new("/nonexistent"), None).is_err());
    }
}
