//! The part of ONNX files that `inspect`, `verify` and `compile` look at: interface, operators, size and
//! external weights.
//!
//! Field numbers are those of `onnx.proto`; fields that are not declared here are skipped on reading, so a
//! graph of any size costs little more than its names.

use std::path::{Path, PathBuf};

use prost::Message;

/// Code of 32-bit floats in `TensorProto.data_type`.
pub const FLOAT: i32 = 1;
/// Code of 8-bit unsigned integers.
pub const UINT8: i32 = 2;
/// Code of 8-bit signed integers.
pub const INT8: i32 = 3;
/// Code of 32-bit integers.
pub const INT32: i32 = 6;
/// Code of 64-bit integers.
pub const INT64: i32 = 7;
/// Code of truth values.
pub const BOOL: i32 = 9;
/// Code of 16-bit floats.
pub const FLOAT16: i32 = 10;
/// Code of bfloat16.
pub const BFLOAT16: i32 = 16;
/// Code of 8-bit floats without infinities.
pub const FLOAT8E4M3FN: i32 = 17;
/// Code of 4-bit unsigned integers.
pub const UINT4: i32 = 21;
/// Code of 4-bit signed integers.
pub const INT4: i32 = 22;

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    /// IR version.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Operator sets.
    #[prost(message, repeated, tag = "8")]
    pub opsets: Vec<OperatorSet>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSet {
    /// Domain; empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// Operators.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<Node>,
    /// Constant tensors.
    #[prost(message, repeated, tag = "5")]
    pub initializers: Vec<Initializer>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub inputs: Vec<Value>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub outputs: Vec<Value>,
    /// All values between them.
    #[prost(message, repeated, tag = "13")]
    pub values: Vec<Value>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Names of inputs; empty for an omitted one.
    #[prost(string, repeated, tag = "1")]
    pub inputs: Vec<String>,
    /// Names of outputs; empty for an omitted one.
    #[prost(string, repeated, tag = "2")]
    pub outputs: Vec<String>,
    /// Name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator.
    #[prost(string, tag = "4")]
    pub operator: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attributes: Vec<Attribute>,
    /// Domain of the operator; empty for the standard ones.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// `AttributeProto`, as far as whole numbers go.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value of a whole number.
    #[prost(int64, tag = "3")]
    pub int: i64,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Initializer {
    /// Shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Element type.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements, where they are stored inline.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// `location`, `offset` and `length`, where they are not.
    #[prost(message, repeated, tag = "13")]
    pub external: Vec<Entry>,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// `TypeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    /// Type of a tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    /// Element type.
    #[prost(int32, tag = "1")]
    pub element: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    /// Axes.
    #[prost(message, repeated, tag = "1")]
    pub dims: Vec<Dim>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    /// Length, where it is fixed.
    #[prost(int64, optional, tag = "1")]
    pub value: Option<i64>,
    /// Name, where it is not.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
}

/// An ONNX file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file system's fault.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a protobuf, or not this one.
    #[error("{} is not an ONNX model", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: prost::DecodeError,
    },
    /// A reference to external data that leads nowhere.
    #[error("{}: initializer `{tensor}` has a malformed reference to external data", path.display())]
    External {
        /// The file.
        path: PathBuf,
        /// The initializer.
        tensor: String,
    },
}

/// Reads a file.
///
/// # Errors
/// [`OnnxError`].
pub fn read(path: &Path) -> Result<Graph, OnnxError> {
    Ok(read_model(path)?.graph.unwrap_or_default())
}

/// Reads a file, operator sets and all.
///
/// # Errors
/// [`OnnxError`].
pub fn read_model(path: &Path) -> Result<Model, OnnxError> {
    let bytes = std::fs::read(path).map_err(|source| OnnxError::Io { path: path.to_owned(), source })?;
    Model::decode(bytes.as_slice()).map_err(|source| OnnxError::Decode { path: path.to_owned(), source })
}

/// Where an initializer's bytes lie outside the `.onnx` file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// File name beside the model.
    pub file: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Initializer {
    /// Where the bytes lie; `None` when they are inline.
    ///
    /// # Errors
    /// [`OnnxError::External`] when fields are missing, are not numbers, or the location is not a plain file
    /// name.
    pub fn location(&self, model: &Path) -> Result<Option<Location>, OnnxError> {
        if self.external.is_empty() {
            return Ok(None);
        }
        let field = |key: &str| self.external.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let plain = |file: &&String| Path::new(file.as_str()).file_name() == Some(file.as_ref());
        let location = || {
            let file = field("location").filter(plain)?.clone();
            let offset = field("offset").map_or(Some(0), |n| n.parse().ok())?;
            Some(Location { file, offset, length: field("length")?.parse().ok()? })
        };
        let malformed = || OnnxError::External { path: model.to_owned(), tensor: self.name.clone() };
        location().map(Some).ok_or_else(malformed)
    }
}

impl Value {
    /// Element type and shape as `float32 [batch, 3, height, width]`.
    pub fn describe(&self) -> String {
        let tensor = self.r#type.clone().and_then(|kind| kind.tensor).unwrap_or_default();
        let dims = tensor.shape.unwrap_or_default().dims;
        let dims: Vec<String> = dims
            .into_iter()
            .map(|dim| {
                dim.name.or_else(|| dim.value.map(|n| n.to_string())).unwrap_or_else(|| "?".to_owned())
            })
            .collect();
        format!("{} [{}]", element_name(tensor.element), dims.join(", "))
    }
}

/// Name of an ONNX element type.
pub fn element_name(code: i32) -> &'static str {
    match code {
        FLOAT => "float32",
        UINT8 => "uint8",
        INT8 => "int8",
        INT32 => "int32",
        INT64 => "int64",
        BOOL => "bool",
        FLOAT16 => "float16",
        BFLOAT16 => "bfloat16",
        FLOAT8E4M3FN => "float8e4m3fn",
        UINT4 => "uint4",
        INT4 => "int4",
        _ => "other",
    }
}
