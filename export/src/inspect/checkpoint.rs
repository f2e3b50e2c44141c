//! A checkpoint's configuration and weights.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::build::{BuildError, Described};
use crate::checkpoint::{Checkpoint, CheckpointError, LeftOut, Tensor};
use crate::progress::human_bytes;
use crate::table::{Table, grouped};

/// What is in a checkpoint.
#[derive(Debug, Serialize)]
pub struct CheckpointReport {
    /// The directory.
    pub path: PathBuf,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// Weight files.
    pub files: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of weights.
    pub bytes: u64,
    /// Tensors by the first part of their names.
    pub components: Vec<Component>,
    /// Every tensor; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorReport>,
    /// Tensors that no network reads, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Why `build` would refuse it; `None` when it would not.
    pub problem: Option<String>,
}

/// The tensors of one network.
#[derive(Debug, Serialize)]
pub struct Component {
    /// First part of their names.
    pub name: String,
    /// How many.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// Their element types.
    pub dtypes: Vec<&'static str>,
    /// Their bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct TensorReport {
    /// Name in the files.
    pub name: String,
    /// The name that the networks and weight rules use, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_name: Option<String>,
    /// Element type.
    pub dtype: &'static str,
    /// Shape.
    pub shape: Vec<usize>,
}

impl CheckpointReport {
    pub(super) fn read(dir: &Path, tensors: bool) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::open(dir)?;
        let (left_out, problem) = match understand(&mut checkpoint) {
            Ok(left_out) => (left_out, None),
            Err(error) => (Vec::new(), Some(sentence(&error))),
        };
        let all = checkpoint.tensors();
        let list = checkpoint.names().map(|(network, stored)| TensorReport {
            name: stored.to_owned(),
            network_name: (network != stored).then(|| network.to_owned()),
            dtype: all[stored].dtype.name(),
            shape: all[stored].shape.clone(),
        });
        let mut list: Vec<TensorReport> = if tensors { list.collect() } else { Vec::new() };
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            path: dir.to_owned(),
            model_type: checkpoint.config()["model_type"].as_str().map(str::to_owned),
            files: checkpoint.shards().count(),
            parameters: all.values().map(|tensor| tensor.elements() as u64).sum(),
            bytes: all.values().map(Tensor::size).sum(),
            components: components(all),
            tensors: list,
            left_out,
            problem,
        })
    }
}

fn components(tensors: &BTreeMap<String, Tensor>) -> Vec<Component> {
    let mut groups: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
    for (name, tensor) in tensors {
        groups.entry(name.split('.').next().unwrap_or(name)).or_default().push(tensor);
    }
    let component = |(name, tensors): (&str, Vec<&Tensor>)| {
        let mut dtypes: Vec<&str> = tensors.iter().map(|tensor| tensor.dtype.name()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        Component {
            name: name.to_owned(),
            tensors: tensors.len(),
            parameters: tensors.iter().map(|tensor| tensor.elements() as u64).sum(),
            dtypes,
            bytes: tensors.iter().map(|tensor| tensor.size()).sum(),
        }
    };
    groups.into_iter().map(component).collect()
}

/// What `build` would say of configuration, tensors, tokenizer and chat template.
fn understand(checkpoint: &mut Checkpoint) -> Result<Vec<LeftOut>, BuildError> {
    let described = Described::read(checkpoint)?;
    described.text(checkpoint)?;
    Ok(described.left_out)
}

/// An error and its causes.
fn sentence(error: &BuildError) -> String {
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    problem
}

impl fmt::Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model_type = self.model_type.as_deref().unwrap_or("(no model_type)");
        let (parameters, size) = (grouped(self.parameters), human_bytes(self.bytes));
        writeln!(f, "{}: checkpoint, {model_type}", self.path.display())?;
        writeln!(f, "{parameters} parameters, {size} in {} weight file(s)\n", self.files)?;
        let mut table = Table::new(&["component", ">tensors", ">parameters", "dtype", ">size"]);
        for component in &self.components {
            table.row([
                component.name.clone(),
                component.tensors.to_string(),
                grouped(component.parameters),
                component.dtypes.join(", "),
                human_bytes(component.bytes),
            ]);
        }
        write!(f, "{table}")?;
        if !self.tensors.is_empty() {
            let mut table = Table::new(&["tensor", "to the networks", "dtype", "shape"]);
            for tensor in &self.tensors {
                let (dtype, shape) = (tensor.dtype.to_owned(), format!("{:?}", tensor.shape));
                table.row([
                    tensor.name.clone(),
                    tensor.network_name.clone().unwrap_or_default(),
                    dtype,
                    shape,
                ]);
            }
            write!(f, "\n{table}")?;
        }
        match &self.problem {
            // The command ends with the reason.
            Some(_) => writeln!(f, "\ncannot be built"),
            None => {
                if !self.left_out.is_empty() {
                    writeln!(f)?;
                }
                self.left_out.iter().try_for_each(|left_out| writeln!(f, "{left_out}"))?;
                writeln!(
                    f,
                    "\ncan be built: every tensor is there, in the shape that config.json implies, and tokenizer and \
                     chat template put every question"
                )
            }
        }
    }
}
